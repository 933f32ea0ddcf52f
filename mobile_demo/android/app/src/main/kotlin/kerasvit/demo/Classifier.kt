/** One exported file in LiteRT. */
package kerasvit.demo

import android.content.res.AssetManager
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.LiteRtException
import com.google.ai.edge.litert.TensorBuffer
import com.google.ai.edge.litert.TensorType

private const val SIGNATURE = "serving_default"
private const val INPUT = "image"
private const val PROBABILITY = "probability"
private const val LOGITS = "logits"

/**
 * Loads `name` from assets/, and checks that `keras-vit export` made it and that it has as many classes as
 * `labels`; of the probability of one class these may be two, of the labels 0 and 1.
 *
 * `logits` says that its numbers are no probabilities, as the manifest does by `activation`.
 *
 * On the CPU, for which the int8 files are made. A GPU takes float32.tflite and float16.tflite: add
 * `Accelerator.GPU` to the options, and com.google.ai.edge.litert:litert-gpu to the dependencies.
 */
class Classifier(
    assets: AssetManager,
    val name: String,
    private val labels: List<String>,
    val logits: Boolean,
) : AutoCloseable {
    private val answer = if (logits) LOGITS else PROBABILITY
    private val model = try {
        CompiledModel.create(assets, name, CompiledModel.Options(Accelerator.CPU))
    } catch (error: LiteRtException) {
        throw Trouble(R.string.not_loaded, name, error.message.orEmpty())
    }
    private val input: TensorBuffer
    private val output: TensorBuffer
    val height: Int
    val width: Int

    init {
        try {
            val picture = shape(model.getInputTensorType(INPUT, SIGNATURE))
            val classes = shape(model.getOutputTensorType(answer, SIGNATURE)).lastOrNull() ?: 0
            if (picture.size != 4 || picture[0] != 1 || picture[3] != 3) {
                throw Trouble(R.string.other_signature, name)
            }
            val both = classes == 1 && labels.size == 2 && !logits
            if (classes != labels.size && !both) throw Trouble(R.string.other_labels, name, labels.size, classes)
            height = picture[1]
            width = picture[2]
            input = model.createInputBuffer(INPUT, SIGNATURE)
            output = model.createOutputBuffer(answer, SIGNATURE)
        } catch (error: LiteRtException) { // another name, or a type that Kotlin does not have
            model.close()
            throw Trouble(R.string.other_signature, name)
        } catch (error: Trouble) {
            model.close()
            throw error
        }
    }

    /**
     * The most probable classes of `pixels` (as `fit` makes them), the likeliest first. Of one class, label 1's
     * probability, that of label 0 stands beside it.
     */
    fun classify(pixels: FloatArray, top: Int = 5): List<Pair<String, Float>> {
        input.writeFloat(pixels)
        model.run(mapOf(INPUT to input), mapOf(answer to output), SIGNATURE)
        var values = output.readFloat()
        if (values.size == 1 && labels.size == 2) values = floatArrayOf(1 - values[0], values[0])
        val best = labels.indices.sortedByDescending { values[it] }.take(top)
        return best.map { labels[it] to values[it] }
    }

    override fun close() {
        input.close()
        output.close()
        model.close()
    }

    private fun shape(type: TensorType): List<Int> {
        if (type.elementType != TensorType.ElementType.FLOAT) throw Trouble(R.string.other_signature, name)
        return type.layout?.dimensions?.toList().orEmpty()
    }
}
