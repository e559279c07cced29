// Gather: neighbourhoods of the target pixels, side by side.
import CoreML
import Foundation
import Metal

/// As in plugins/kernels/metal/parameters.h.
struct GatherParameters {
    var source: SourceParameters
    var phases: Int32
    var padding: Int32
}

#if canImport(ObjectiveC)
@objc(SIGEGather)
#endif
public final class SIGEGather: SIGELayer {
    private var source: SIGESource!
    private var phases = 1, padding: Float = 0, second = 0

    override func read(_ given: SIGEParameters) throws {
        source = try SIGESource(given, activation: "activation", alpha: "alpha")
        phases = try given.count("phases")
        padding = try given.float("pad_value")
        guard channels % phases == 0, outputs == source.taps * (channels / phases) else {
            throw SIGELayerError("A SIGEGather has \(outputs) outputs of \(source.taps) taps of \(channels) channels.")
        }
        second = try given.integer("channels_2")
    }

    override func weightCounts() -> [String: Int] { ["scale": channels, "shift": channels] }

    override func channelsOf(_ input: String) -> Int { input == "rows_2" ? second : channels - second }

    override func rowsOf(_ input: String) -> Int? { source.geometry.isEmpty ? rows : nil }

    override func evaluate(_ given: [String: SIGERows], live: SIGEContext.Level, into result: inout SIGERows) throws {
        guard let fresh = given["rows"] else { throw SIGELayerError("A SIGEGather has no input 'rows'.") }
        let found = try source.found(self, fresh: fresh.count, channels2: second, phases: phases)
        let width = channels / phases
        var x = [Float](repeating: 0, count: channels)
        for target in 0..<min(live.count, rows) {
            for tap in 0..<source.taps {
                let phase = try found.read(
                    fresh, given["rows_2"], target: target, tap: tap, activation: source.activation, into: &x)
                for c in 0..<width {
                    result[target, tap * width + c] = phase.map { x[$0 * width + c] } ?? padding
                }
            }
        }
    }

    override func encode(
        _ given: [String: any MTLTexture], _ result: any MTLTexture, live: SIGEContext.Level, _ metal: SIGEMetal,
        _ commands: any MTLCommandBuffer
    ) throws {
        guard let fresh = given["rows"] else { throw SIGELayerError("A SIGEGather has no input 'rows'.") }
        let found = try source.found(self, fresh: fresh.width, channels2: second, phases: phases)
        try metal.encode(
            SIGEDispatch(
                kernel: "gather_images", textures: [fresh, given["rows_2"] ?? fresh, result],
                buffers: found.buffers + [live.live],
                parameters: GatherParameters(
                    source: found.parameters, phases: Int32(phases), padding: Int32(SIGEHalf.bits(padding))),
                groups: (ceilDivide(rows, 8), ceilDivide(outputs, 32), 1), threads: (8, 8)),
            in: commands)
    }
}
