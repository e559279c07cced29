// Conv: the gather fused with the product, and what follows it.
import CoreML
import Foundation
import Metal

/// As in plugins/kernels/metal/parameters.h.
struct ConvParameters {
    var source: SourceParameters
    var outputs: Int32
    var group: Int32
    var hasBias: Int32
    var embeddingBatch: Int32
    var hasMultiplier: Int32
    var hasResidual: Int32
    var activation: Int32
    var alpha: Float
    var normEpsilon: Float
    var gated: Int32
    var gate: Int32
}

#if canImport(ObjectiveC)
@objc(SIGEConv)
#endif
public final class SIGEConv: SIGELayer {
    // As in plugins/kernels/metal/product.h.
    private static let tile = 32, threads = 128, memory = 2 * 32 * (32 + 8) * 2

    private var source: SIGESource!
    private var group = 1, activation = SIGEActivation.identity, alpha: Float = 0, second = 0
    private var normEpsilon: Float = 0, gate: SIGEActivation?
    /// Columns of the weight and of the bias.
    private var columns: Int { gate == nil ? outputs : 2 * outputs }

    override func read(_ given: SIGEParameters) throws {
        source = try SIGESource(given, activation: "activation_in", alpha: "alpha_in")
        group = try given.count("group")
        activation = try SIGEActivation(name: try given.string("activation_out"))
        alpha = try given.float("alpha_out")
        guard channels % group == 0, outputs % group == 0, weightNames.first == "weight" else {
            throw SIGELayerError("A SIGEConv has \(group) groups of \(channels) and \(outputs) channels, weights \(weightNames).")
        }
        second = try given.integer("channels_2")
        normEpsilon = try given.float("norm_epsilon")
        let named = try given.string("gate")
        gate = named.isEmpty ? nil : try SIGEActivation(name: named)
        guard group == 1 || (gate == nil && normEpsilon == 0) else {
            throw SIGELayerError("A SIGEConv of \(group) groups has a norm or a gate; build the Core ML models anew.")
        }
    }

    override func weightCounts() -> [String: Int] {
        [
            "weight": source.taps * (channels / group) * columns, "bias": columns, "scale": channels, "shift": channels,
        ]
    }

    override func channelsOf(_ input: String) -> Int {
        switch input {
        case "rows": return channels - second
        case "rows_2": return second
        default: return outputs
        }
    }

    override func rowsOf(_ input: String) -> Int? {
        switch input {
        case "rows", "rows_2": return source.geometry.isEmpty ? rows : nil
        case "embedding": return 1
        default: return rows
        }
    }

    override func evaluate(_ given: [String: SIGERows], live: SIGEContext.Level, into result: inout SIGERows) throws {
        guard let fresh = given["rows"], let weight = weights["weight"]?.halves else {
            throw SIGELayerError("A SIGEConv has no input 'rows', or no weight yet.")
        }
        let found = try source.found(self, fresh: fresh.count, channels2: second, phases: 1)
        let depth = channels / group, columns = self.columns / group
        let bias = weights["bias"]?.halves, embedding = given["embedding"]
        let multiplier = given["multiplier"], residual = given["residual"]
        var x = [Float](repeating: 0, count: channels), sums = [Float](repeating: 0, count: self.columns)
        for target in 0..<min(live.count, rows) {
            for o in 0..<self.columns { sums[o] = 0 }
            for tap in 0..<source.taps {
                let phase = try found.read(
                    fresh, given["rows_2"], target: target, tap: tap, activation: source.activation, into: &x)
                if phase == nil { continue }
                for g in 0..<group {
                    for c in 0..<depth {
                        let value = x[g * depth + c]
                        let line = weight + (tap * depth + c) * self.columns + g * columns
                        for o in 0..<columns { sums[g * columns + o] += value * SIGEHalf.float(line[o]) }
                    }
                }
            }
            if normEpsilon > 0 {  // one tap, whose channels are still in x
                let factor = inverseDeviation(x)
                for o in 0..<self.columns { sums[o] *= factor }
            }
            if let bias { for o in 0..<self.columns { sums[o] += SIGEHalf.float(bias[o]) } }
            if let gate { for o in 0..<outputs { sums[o] *= gate.apply(sums[outputs + o], alpha: 0) } }
            for o in 0..<outputs {
                let y = (sums[o] + (embedding?[0, o] ?? 0)) * (multiplier?[target, o] ?? 1) + (residual?[target, o] ?? 0)
                result[target, o] = activation.apply(y, alpha: alpha)
            }
        }
    }

    private func inverseDeviation(_ x: [Float]) -> Float {
        let count = Float(x.count), mean = x.reduce(0, +) / count
        let variance = x.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / count
        return 1 / (variance + normEpsilon).squareRoot()
    }

    override func encode(
        _ given: [String: any MTLTexture], _ result: any MTLTexture, live: SIGEContext.Level, _ metal: SIGEMetal,
        _ commands: any MTLCommandBuffer
    ) throws {
        guard let fresh = given["rows"], let weight = weights["weight"] else {
            throw SIGELayerError("A SIGEConv has no input 'rows', or no weight yet.")
        }
        let found = try source.found(self, fresh: fresh.width, channels2: second, phases: 1)
        let columns = outputs / group
        var dispatch = SIGEDispatch(
            kernel: metal.isApple7 ? "conv_images" : "conv_plain_images",
            textures: [fresh] + ["rows_2", "embedding", "multiplier", "residual"].map { given[$0] ?? fresh } + [result],
            buffers: found.buffers + [weight, weights["bias"], live.live],
            parameters: ConvParameters(
                source: found.parameters, outputs: Int32(outputs), group: Int32(group),
                hasBias: weights["bias"] == nil ? 0 : 1, embeddingBatch: given["embedding"] == nil ? 0 : 1,
                hasMultiplier: given["multiplier"] == nil ? 0 : 1, hasResidual: given["residual"] == nil ? 0 : 1,
                activation: activation.rawValue, alpha: alpha, normEpsilon: normEpsilon, gated: gate == nil ? 0 : 1,
                gate: gate?.rawValue ?? 0),
            groups: (ceilDivide(rows, SIGEConv.tile), ceilDivide(columns, SIGEConv.tile), group),
            threads: (SIGEConv.threads, 1), memory: SIGEConv.memory)
        if group > 1 && columns % 4 != 0 {
            dispatch.kernel = "conv_few_images"
            dispatch.groups = (ceilDivide(rows, 8), ceilDivide(outputs, 32), 1)
            dispatch.threads = (8, 8)
            dispatch.memory = 0
        }
        try metal.encode(dispatch, in: commands)
    }
}
