// Attention: queries of the rows against recorded keys and values, overlaid with fresh ones or not.
import CoreML
import Foundation
import Metal

/// As in plugins/kernels/metal/parameters.h.
struct AttentionParameters {
    var fresh: Int32
    var pixels: Int32
    var heads: Int32
    var dk: Int32
    var dv: Int32
    var overlaid: Int32
    var scale: Float
}

#if canImport(ObjectiveC)
@objc(SIGEAttention)
#endif
public final class SIGEAttention: SIGELayer {
    // As in plugins/kernels/metal/attention.metal.
    private static let queries = 16, threads = 128, chunk = 32, memory = 128 * 4 + 16 * 32 * 4 + 32 * (32 + 4) * 2
    private static let widest = 512

    private var keyBase = "", valueBase = "", heads = 1, scale: Float = 0
    private var overlaid: Bool { inputs.contains("k") }
    private var dk: Int { channels / heads }
    private var dv: Int { outputs / heads }

    override func read(_ given: SIGEParameters) throws {
        keyBase = try given.string("k_base")
        valueBase = try given.string("v_base")
        heads = try given.count("heads")
        scale = try given.float("scale")
        guard channels % heads == 0, outputs % heads == 0 else {
            throw SIGELayerError("A SIGEAttention has \(heads) heads of \(channels) and \(outputs) channels.")
        }
        guard dk <= SIGEAttention.widest, dv <= SIGEAttention.widest, heads == 1 || dv % 4 == 0 else {
            throw SIGELayerError(
                "A SIGEAttention has \(heads) heads of \(dk) and \(dv) channels; it takes heads of up to "
                    + "\(SIGEAttention.widest), and several only of a multiple of 4.")
        }
        if scale == 0 { scale = 1 / Float(dk).squareRoot() }
    }

    override func channelsOf(_ input: String) -> Int { input == "v" ? outputs : channels }

    override func evaluate(_ given: [String: SIGERows], live: SIGEContext.Level, into result: inout SIGERows) throws {
        guard let q = given["q"] else { throw SIGELayerError("A SIGEAttention has no input 'q'.") }
        let (keyMemory, valueMemory, pixels) = try recorded()
        var keys = SIGEAttention.rows(keyMemory, pixels, channels), values = SIGEAttention.rows(valueMemory, pixels, outputs)
        let count = min(live.count, rows)
        if let k = given["k"], let v = given["v"] {
            for row in 0..<count {
                let pixel = Int(live.active.integers[row])
                for c in 0..<channels { keys[pixel, c] = k[row, c] }
                for c in 0..<outputs { values[pixel, c] = v[row, c] }
            }
        }
        var scores = [Float](repeating: 0, count: pixels)
        for row in 0..<count {
            for head in 0..<heads {
                var top = -Float.infinity
                for n in 0..<pixels {
                    var score: Float = 0
                    for i in head * dk..<(head + 1) * dk { score += q[row, i] * scale * keys[n, i] }
                    scores[n] = score
                    top = max(top, score)
                }
                var total: Float = 0
                for n in 0..<pixels {
                    scores[n] = exp(scores[n] - top)
                    total += scores[n]
                }
                for i in head * dv..<(head + 1) * dv {
                    var sum: Float = 0
                    for n in 0..<pixels { sum += scores[n] * values[n, i] }
                    result[row, i] = sum / total
                }
            }
        }
    }

    override func encode(
        _ given: [String: any MTLTexture], _ result: any MTLTexture, live: SIGEContext.Level, _ metal: SIGEMetal,
        _ commands: any MTLCommandBuffer
    ) throws {
        guard let q = given["q"] else { throw SIGELayerError("A SIGEAttention has no input 'q'.") }
        let (keys, values, pixels) = try recorded()
        let width = dv <= 64 ? 64 : dv <= 160 ? 160 : 512
        let kind = metal.isApple7 ? "attention" : "attention_plain"
        let line = ceilDivide(dk, SIGEAttention.chunk) * SIGEAttention.chunk + 4
        try metal.encode(
            SIGEDispatch(
                kernel: "\(kind)_\(width)_images", textures: [q, given["k"] ?? q, given["v"] ?? q, result],
                buffers: [keys, values, live.active, live.live],
                parameters: AttentionParameters(
                    fresh: Int32(rows), pixels: Int32(pixels), heads: Int32(heads), dk: Int32(dk), dv: Int32(dv),
                    overlaid: overlaid ? 1 : 0, scale: scale),
                groups: (ceilDivide(rows, SIGEAttention.queries), heads, 1), threads: (SIGEAttention.threads, 1),
                memory: SIGEAttention.memory + SIGEAttention.queries * line * 2),
            in: commands)
    }

    /// Recorded keys and values, and how many there are.
    private func recorded() throws -> (SIGEMemory, SIGEMemory, Int) {
        let keys = try context.array(keyBase, channels: channels), values = try context.array(valueBase, channels: outputs)
        let pixels = keys.halfCount / channels
        try require(values.halfCount == pixels * outputs, "\(pixels) keys and \(values.halfCount / outputs) values")
        return (keys, values, pixels)
    }

    private static func rows(_ memory: SIGEMemory, _ count: Int, _ channels: Int) -> SIGERows {
        var result = SIGERows(count: count, channels: channels)
        for row in 0..<count {
            for c in 0..<channels { result[row, c] = SIGEHalf.float(memory.halves[row * channels + c]) }
        }
        return result
    }
}
