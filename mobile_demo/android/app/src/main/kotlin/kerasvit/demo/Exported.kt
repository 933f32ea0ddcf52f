/** What lies in assets/: the files of one export directory, checked before anything is shown. */
package kerasvit.demo

import android.content.Context
import android.content.res.AssetManager
import java.io.IOException
import org.json.JSONException
import org.json.JSONObject

/** Something that a person has to know, as a string resource and the words that go into it. */
class Trouble(val text: Int, vararg val words: Any) : Exception() {
    fun sentence(context: Context): String = context.getString(text, *words)
}

/**
 * The .tflite files by name, in the order of the manifest, the names of the classes, and whether the answers
 * are logits and no probabilities.
 */
class Exported(val files: List<String>, val labels: List<String>, val logits: Boolean) {
    companion object {
        fun read(assets: AssetManager): Exported {
            val there = assets.list("").orEmpty().filter { it.endsWith(".tflite") }
            if (there.isEmpty()) throw Trouble(R.string.no_files)
            val labels = text(assets, "labels.txt") ?: throw Trouble(R.string.no_labels)
            val (named, logits) = try {
                val written = text(assets, "manifest.json") ?: throw Trouble(R.string.no_manifest)
                val manifest = JSONObject(written)
                manifest.optJSONObject("inputs")?.let {
                    throw Trouble(R.string.multimodal, it.keys().asSequence().joinToString())
                }
                val artifacts = manifest.getJSONArray("artifacts")
                val names = List(artifacts.length()) { artifacts.getJSONObject(it).getString("name") }
                names to (manifest.has("activation") && manifest.isNull("activation"))
            } catch (error: JSONException) {
                throw Trouble(R.string.no_manifest)
            }
            val files = named.filter { it in there } + (there - named.toSet())
            return Exported(files, labels.lines().dropLastWhile { it.isEmpty() }, logits)
        }

        private fun text(assets: AssetManager, name: String): String? =
            try {
                assets.open(name).bufferedReader().use { it.readText() }
            } catch (error: IOException) {
                null
            }
    }
}
