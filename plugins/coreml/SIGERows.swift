// Tensors [1, C, 1, P] on the CPU, as rows [P, C] of floats.
import CoreML
import Foundation

struct SIGERows {
    let count: Int, channels: Int
    private(set) var values: [Float]

    init(count: Int, channels: Int) {
        self.count = count
        self.channels = channels
        values = [Float](repeating: 0, count: count * channels)
    }

    /// The rows of a tensor of floats, doubles or halves with any strides.
    init(_ tensor: MLMultiArray) throws {
        let place = try Place(tensor)
        self.init(count: place.count, channels: place.channels)
        let start = tensor.dataPointer
        for row in 0..<count {
            for channel in 0..<channels {
                let at = row * place.rowStride + channel * place.channelStride
                values[row * channels + channel] = place.read(start, at)
            }
        }
    }

    func store(in tensor: MLMultiArray) throws {
        let place = try Place(tensor)
        guard place.count == count, place.channels == channels else {
            throw SIGELayerError(
                "Core ML asks for \(place.channels) channels of \(place.count) rows, the layer has \(channels) of \(count).")
        }
        let start = tensor.dataPointer
        for row in 0..<count {
            for channel in 0..<channels {
                let at = row * place.rowStride + channel * place.channelStride
                place.write(values[row * channels + channel], start, at)
            }
        }
    }

    @inline(__always)
    subscript(row: Int, channel: Int) -> Float {
        get { values[row * channels + channel] }
        set { values[row * channels + channel] = newValue }
    }

    /// Where the values of a tensor are.
    private struct Place {
        let count: Int, channels: Int, rowStride: Int, channelStride: Int, kind: Int

        // MLMultiArrayDataType's numbers: .float16 has a name only from macOS 12 on.
        static let half = 0x10000 | 16, single = 0x10000 | 32, double = 0x10000 | 64

        init(_ tensor: MLMultiArray) throws {
            let shape = tensor.shape.map(\.intValue), strides = tensor.strides.map(\.intValue)
            let rank = shape.count
            guard rank >= 3, shape[rank - 2] == 1, shape.dropLast(3).allSatisfy({ $0 == 1 }) else {
                throw SIGELayerError("A tensor has shape \(shape), expected [1, channels, 1, rows].")
            }
            kind = tensor.dataType.rawValue
            guard [Place.half, Place.single, Place.double].contains(kind) else {
                throw SIGELayerError("A tensor has data type \(kind), expected float16, float32 or float64.")
            }
            (count, rowStride) = (shape[rank - 1], strides[rank - 1])
            (channels, channelStride) = (shape[rank - 3], strides[rank - 3])
        }

        @inline(__always)
        func read(_ start: UnsafeMutableRawPointer, _ at: Int) -> Float {
            switch kind {
            case Place.half: return SIGEHalf.float(start.assumingMemoryBound(to: UInt16.self)[at])
            case Place.single: return start.assumingMemoryBound(to: Float.self)[at]
            default: return Float(start.assumingMemoryBound(to: Double.self)[at])
            }
        }

        @inline(__always)
        func write(_ value: Float, _ start: UnsafeMutableRawPointer, _ at: Int) {
            switch kind {
            case Place.half: start.assumingMemoryBound(to: UInt16.self)[at] = SIGEHalf.bits(value)
            case Place.single: start.assumingMemoryBound(to: Float.self)[at] = value
            default: start.assumingMemoryBound(to: Double.self)[at] = Double(value)
            }
        }
    }
}
