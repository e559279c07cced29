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
    var q: PartParameters
    var k: PartParameters
    var v: PartParameters
    var keyBase: PartParameters
    var valueBase: PartParameters
}

/// The channels of an array of which a kernel reads some, from `offset` on.
struct PartParameters {
    var channels: Int32
    var offset: Int32
}

#if canImport(ObjectiveC)
@objc(SIGEAttention)
#endif
public final class SIGEAttention: SIGELayer {
    // As in plugins/kernels/metal/attention.metal.
    private static let queries = 16, threads = 128, chunk = 32, memory = 128 * 4 + 16 * 32 * 4 + 32 * (32 + 4) * 2
    private static let widest = 512

    /// An array that is read: so many channels of `channels`, from `offset` on.
    private struct Part {
        var channels = 0, offset = 0

        var parameters: PartParameters { PartParameters(channels: Int32(channels), offset: Int32(offset)) }
    }

    private var keyBase = "", valueBase = "", heads = 1, dk = 1, dv = 1, scale: Float = 0
    private var parts: [String: Part] = [:]
    private var overlaid: Bool { inputs.contains("k") }

    override func read(_ given: SIGEParameters) throws {
        keyBase = try given.string("k_base")
        valueBase = try given.string("v_base")
        heads = try given.count("heads")
        scale = try given.float("scale")
        (dk, dv) = (try given.integer("dk"), try given.integer("dv"))
        if dk == 0 {
            guard channels % heads == 0, outputs % heads == 0 else {
                throw SIGELayerError("A SIGEAttention has \(heads) heads of \(channels) and \(outputs) channels.")
            }
            (dk, dv) = (channels / heads, outputs / heads)
        }
        guard heads * dv == outputs else {
            throw SIGELayerError("A SIGEAttention has \(heads) heads of \(dv) channels and \(outputs) outputs.")
        }
        for name in ["q", "k", "v", "k_base", "v_base"] {
            let width = try name == "q" ? channels : given.integer("\(name)_channels")
            let part = Part(channels: width, offset: try given.integer("\(name)_offset"))
            let absent = !overlaid && (name == "k" || name == "v")
            guard absent || part.offset + heads * (name.hasPrefix("v") ? dv : dk) <= part.channels else {
                throw SIGELayerError(
                    "A SIGEAttention reads more channels of '\(name)' than its \(part.channels); build the Core ML models anew.")
            }
            parts[name] = part
        }
        guard dk <= SIGEAttention.widest, dv <= SIGEAttention.widest, heads == 1 || dv % 4 == 0 else {
            throw SIGELayerError(
                "A SIGEAttention has \(heads) heads of \(dk) and \(dv) channels; it takes heads of up to "
                    + "\(SIGEAttention.widest), and several only of a multiple of 4.")
        }
        if scale == 0 { scale = 1 / Float(dk).squareRoot() }
    }

    override func channelsOf(_ input: String) -> Int { part(input).channels }

    private func part(_ name: String) -> Part { parts[name] ?? Part() }

    override func evaluate(_ given: [String: SIGERows], live: SIGEContext.Level, into result: inout SIGERows) throws {
        guard let q = given["q"] else { throw SIGELayerError("A SIGEAttention has no input 'q'.") }
        let (keyMemory, valueMemory, pixels) = try recorded()
        var keys = SIGEAttention.rows(keyMemory, pixels, part("k_base"), heads * dk)
        var values = SIGEAttention.rows(valueMemory, pixels, part("v_base"), outputs)
        let (queryAt, keyAt, valueAt) = (part("q").offset, part("k").offset, part("v").offset)
        let count = min(live.count, rows)
        if let k = given["k"], let v = given["v"] {
            for row in 0..<count {
                let pixel = Int(live.active.integers[row])
                for c in 0..<heads * dk { keys[pixel, c] = k[row, keyAt + c] }
                for c in 0..<outputs { values[pixel, c] = v[row, valueAt + c] }
            }
        }
        var scores = [Float](repeating: 0, count: pixels)
        for row in 0..<count {
            for head in 0..<heads {
                var top = -Float.infinity
                for n in 0..<pixels {
                    var score: Float = 0
                    for i in head * dk..<(head + 1) * dk { score += q[row, queryAt + i] * scale * keys[n, i] }
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
                    overlaid: overlaid ? 1 : 0, scale: scale, q: part("q").parameters, k: part("k").parameters,
                    v: part("v").parameters, keyBase: part("k_base").parameters, valueBase: part("v_base").parameters),
                groups: (ceilDivide(rows, SIGEAttention.queries), heads, 1), threads: (SIGEAttention.threads, 1),
                memory: SIGEAttention.memory + SIGEAttention.queries * line * 2),
            in: commands)
    }

    /// Recorded keys and values, and how many there are.
    private func recorded() throws -> (SIGEMemory, SIGEMemory, Int) {
        let (keyWidth, valueWidth) = (part("k_base").channels, part("v_base").channels)
        let keys = try context.array(keyBase, channels: keyWidth)
        let values = try context.array(valueBase, channels: valueWidth)
        let pixels = keys.halfCount / keyWidth
        try require(values.halfCount == pixels * valueWidth, "\(pixels) keys and \(values.halfCount / valueWidth) values")
        return (keys, values, pixels)
    }

    /// Channels of a recorded array as rows of their own.
    private static func rows(_ memory: SIGEMemory, _ count: Int, _ part: Part, _ channels: Int) -> SIGERows {
        var result = SIGERows(count: count, channels: channels)
        for row in 0..<count {
            let from = row * part.channels + part.offset
            for c in 0..<channels { result[row, c] = SIGEHalf.float(memory.halves[from + c]) }
        }
        return result
    }
}
