/** The one screen: the camera, a list of files, the five likeliest classes, and how long they took. */
package kerasvit.demo

import android.Manifest
import android.os.Bundle
import android.os.SystemClock
import android.view.View
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.Spinner
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import androidx.camera.core.Preview
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.view.PreviewView
import androidx.core.content.ContextCompat
import com.google.ai.edge.litert.LiteRtException
import java.util.concurrent.Executors

class MainActivity : ComponentActivity() {
    // Loading and answering happen on this one thread, so a file is never closed while it works.
    private val worker = Executors.newSingleThreadExecutor()
    private var classifier: Classifier? = null
    private var noCamera = "" // why there is none

    private val permission =
        registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted ->
            if (granted) startCamera() else withoutCamera(getString(R.string.no_permission))
        }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        try {
            offer(Exported.read(assets))
            permission.launch(Manifest.permission.CAMERA)
        } catch (trouble: Trouble) {
            note(trouble.sentence(this))
        }
    }

    override fun onDestroy() {
        super.onDestroy()
        worker.execute { classifier?.close() }
        worker.shutdown()
    }

    private fun offer(exported: Exported) {
        val list = findViewById<Spinner>(R.id.files)
        list.adapter = ArrayAdapter(this, android.R.layout.simple_spinner_dropdown_item, exported.files)
        list.onItemSelectedListener = object : AdapterView.OnItemSelectedListener {
            override fun onItemSelected(parent: AdapterView<*>?, view: View?, position: Int, id: Long) =
                load(exported.files[position], exported)

            override fun onNothingSelected(parent: AdapterView<*>?) = Unit
        }
    }

    private fun load(name: String, exported: Exported) {
        show("", getString(R.string.loading, name))
        worker.execute {
            classifier?.close()
            classifier = null
            try {
                classifier = Classifier(assets, name, exported.labels, exported.logits)
                runOnUiThread { note(noCamera) }
            } catch (trouble: Trouble) {
                runOnUiThread { note(trouble.sentence(this)) }
            }
        }
    }

    private fun startCamera() {
        val future = ProcessCameraProvider.getInstance(this)
        future.addListener({
            try {
                val provider = future.get()
                val back = provider.hasCamera(CameraSelector.DEFAULT_BACK_CAMERA)
                val camera =
                    if (back) CameraSelector.DEFAULT_BACK_CAMERA else CameraSelector.DEFAULT_FRONT_CAMERA
                val preview = Preview.Builder().build()
                preview.setSurfaceProvider(findViewById<PreviewView>(R.id.preview).surfaceProvider)
                val analysis = ImageAnalysis.Builder()
                    .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST)
                    .setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
                    .setOutputImageRotationEnabled(true) // upright, as a person sees it
                    .build()
                analysis.setAnalyzer(worker) { frame -> frame.use(::answer) }
                provider.unbindAll()
                provider.bindToLifecycle(this, camera, preview, analysis)
            } catch (error: Exception) { // CameraX has several, all of which mean the same to a person
                withoutCamera(getString(R.string.no_camera, error.message.orEmpty()))
            }
        }, ContextCompat.getMainExecutor(this))
    }

    private fun withoutCamera(sentence: String) {
        noCamera = sentence
        note(sentence)
    }

    private fun answer(frame: ImageProxy) {
        val model = classifier ?: return
        val start = SystemClock.elapsedRealtimeNanos()
        val plane = frame.planes[0]
        val bytes = ByteArray(plane.buffer.remaining()).also { plane.buffer.get(it) }
        val picture = Picture(bytes, frame.width, frame.height, plane.rowStride)
        val pixels = fit(picture, model.height, model.width)
        val ready = SystemClock.elapsedRealtimeNanos()
        val found = try {
            model.classify(pixels)
        } catch (error: LiteRtException) {
            runOnUiThread { note(getString(R.string.failed, model.name, error.message.orEmpty())) }
            return
        }
        val done = SystemClock.elapsedRealtimeNanos()
        val rows = found.joinToString("\n") { (label, value) ->
            if (model.logits) getString(R.string.logit, value, label)
            else getString(R.string.row, value * 100, label)
        }
        val times = getString(R.string.times, (done - ready) / 1e6, (ready - start) / 1e6)
        runOnUiThread { show(rows, times) }
    }

    private fun show(answer: String, note: String) {
        findViewById<TextView>(R.id.answer).text = answer
        findViewById<TextView>(R.id.note).text = note
    }

    private fun note(sentence: String) = show("", sentence)
}
