/**
 * A picture at the size that the model takes: scaled to cover it, cropped in the centre.
 *
 * The same arithmetic as `keras_vit.data.decoding.fit`, that is Pillow's antialiased bilinear resizing.
 * Android's own, `Bitmap.createScaledBitmap`, does not antialias. Plain Kotlin, without Android.
 */
package kerasvit.demo

import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

/** An upright picture: `rgba` holds four bytes a pixel and `rowStride` bytes a row. */
class Picture(val rgba: ByteArray, val width: Int, val height: Int, val rowStride: Int)

/** float [height, width, 3] in one array: red, green, blue, 0 to 255. */
fun fit(picture: Picture, height: Int, width: Int): FloatArray {
    val scale = max(height / picture.height.toDouble(), width / picture.width.toDouble())
    val newHeight = max(height, round(picture.height * scale).toInt()) // halves to even, as in Python
    val newWidth = max(width, round(picture.width * scale).toInt())
    val across = weights(picture.width, newWidth, (newWidth - width) / 2, width)
    val down = weights(picture.height, newHeight, (newHeight - height) / 2, height)

    // Only the rows that `down` looks at; each pass rounds to a byte, as Pillow's does.
    val top = down.first().first
    val rows = Array(down.last().let { it.first + it.weights.size } - top) { IntArray(width * 3) }
    for ((y, row) in rows.withIndex()) {
        for ((x, window) in across.withIndex()) {
            for (channel in 0..2) {
                var sum = HALF
                var place = (top + y) * picture.rowStride + window.first * 4 + channel
                for (weight in window.weights) {
                    sum += weight * (picture.rgba[place].toInt() and 255)
                    place += 4
                }
                row[x * 3 + channel] = byte(sum)
            }
        }
    }
    val pixels = FloatArray(height * width * 3)
    for ((y, window) in down.withIndex()) {
        for (x in 0 until width * 3) {
            var sum = HALF
            for ((i, weight) in window.weights.withIndex()) sum += weight * rows[window.first - top + i][x]
            pixels[y * width * 3 + x] = byte(sum).toFloat()
        }
    }
    return pixels
}

/** Pillow's fixed-point numbers have 22 bits after the point. */
private const val BITS = 22
private const val HALF = 1 shl (BITS - 1)

private fun byte(sum: Int) = min(max(sum shr BITS, 0), 255)

/** What one pixel is made of: the old pixels from `first` on, each with its weight. */
private class Window(val first: Int, val weights: IntArray)

/** The windows of the pixels start until start + count of a line that goes from `old` pixels to `new`. */
private fun weights(old: Int, new: Int, start: Int, count: Int) = Array(count) { index ->
    val scale = old / new.toDouble()
    val reach = max(scale, 1.0) // a triangle as wide as the scale asks: this is the antialiasing
    val centre = (start + index + 0.5) * scale
    val first = max((centre - reach + 0.5).toInt(), 0)
    val last = min((centre + reach + 0.5).toInt(), old)
    val triangle = DoubleArray(last - first) { max(0.0, 1 - abs((it + first - centre + 0.5) * (1 / reach))) }
    val total = triangle.sum()
    Window(first, IntArray(triangle.size) { (0.5 + triangle[it] / total * (1 shl BITS)).toInt() })
}
