// Scatter: rows over a copy of the base.
import CoreML
import Foundation
import Metal

/// As in plugins/kernels/metal/parameters.h.
struct ScatterParameters {
    var pixels: Int32
    var fresh: Int32
    var channels: Int32
    var width: Int32
}

#if canImport(ObjectiveC)
@objc(SIGEScatter)
#endif
public final class SIGEScatter: SIGELayer {
    private var base = "", pixels = 1

    override var outputRows: Int { pixels }

    override func read(_ given: SIGEParameters) throws {
        base = try given.string("base")
        pixels = try given.count("pixels")
    }

    override func evaluate(_ given: [String: SIGERows], live: SIGEContext.Level, into result: inout SIGERows) throws {
        guard let fresh = given["rows"] else { throw SIGELayerError("A SIGEScatter has no input 'rows'.") }
        let base = try recorded()
        for pixel in 0..<pixels {
            for c in 0..<channels { result[pixel, c] = SIGEHalf.float(base.halves[pixel * channels + c]) }
        }
        for row in 0..<min(live.count, rows) {
            let pixel = Int(live.active.integers[row])
            for c in 0..<channels { result[pixel, c] = fresh[row, c] }
        }
    }

    override func encode(
        _ given: [String: any MTLTexture], _ result: any MTLTexture, live: SIGEContext.Level, _ metal: SIGEMetal,
        _ commands: any MTLCommandBuffer
    ) throws {
        guard let fresh = given["rows"] else { throw SIGELayerError("A SIGEScatter has no input 'rows'.") }
        try metal.encode(
            SIGEDispatch(
                kernel: "scatter_images", textures: [fresh, result],
                buffers: [try recorded(), live.active, live.live],
                parameters: ScatterParameters(
                    pixels: Int32(pixels), fresh: Int32(rows), channels: Int32(channels), width: Int32(result.width)),
                groups: (ceilDivide(pixels, 8), ceilDivide(channels, 32), 1), threads: (8, 8)),
            in: commands)
    }

    private func recorded() throws -> SIGEMemory {
        let found = try context.array(base, channels: channels)
        try require(found.halfCount == pixels * channels, "a base of \(found.halfCount) values")
        return found
    }
}
