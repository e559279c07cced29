// What Gather and Conv read: the virtual concatenation [fresh rows | halo | padding] of docs/ops.md.
import Foundation
import Metal

/// As in plugins/kernels/metal/parameters.h.
struct SourceParameters {
    var fresh: Int32 = 0
    var pixels: Int32 = 0
    var targets: Int32 = 0
    var taps: Int32 = 0
    var channels: Int32 = 0
    var channels2: Int32 = 0
    var hasTable: Int32 = 0
    var scaleBatch: Int32 = 0
    var shiftBatch: Int32 = 0
    var activation: Int32 = 0
    var alpha: Float = 0
}

/// The names and choices of a layer's source.
struct SIGESource {
    let geometry: String, taps: Int, base: String, base2: String, scaleName: String, shiftName: String
    let activation: SIGEActivation, alpha: Float

    init(_ given: SIGEParameters, activation: String, alpha: String) throws {
        geometry = try given.string("geometry")
        taps = try given.count("taps")
        base = try given.string("base")
        base2 = try given.string("base_2")
        scaleName = try given.string("scale_name")
        shiftName = try given.string("shift_name")
        self.activation = try SIGEActivation(name: try given.string(activation))
        self.alpha = try given.float(alpha)
    }

    /// What a layer reads in one call, found by name. fresh: rows of the source; channels2: of the second one.
    func found(_ layer: SIGELayer, fresh: Int, channels2: Int, phases: Int) throws -> SIGEFoundSource {
        var p = SourceParameters()
        let context = layer.context
        (p.fresh, p.targets, p.taps) = (Int32(fresh), Int32(layer.rows), Int32(taps))
        (p.channels, p.channels2) = (Int32(layer.channels), Int32(channels2))
        (p.activation, p.alpha) = (activation.rawValue, alpha)
        var found = SIGEFoundSource(parameters: p, phases: phases)
        if !geometry.isEmpty {
            let indices = try context.geometry(geometry)
            guard indices.table.byteCount == 4 * layer.rows * taps else {
                throw SIGELayerError(
                    "The table of '\(geometry)' has \(indices.table.byteCount / 4) entries, expected \(layer.rows * taps).")
            }
            found.parameters.hasTable = 1
            found.table = indices.table
            found.halo = indices.halo
            found.base = try context.array(base, channels: layer.channels - channels2)
            found.parameters.pixels = Int32(found.base!.halfCount / (layer.channels - channels2))
            if channels2 > 0 { found.base2 = try context.array(base2, channels: channels2) }
        }
        found.scale = try affine(layer, "scale", scaleName)
        found.shift = try affine(layer, "shift", shiftName)
        found.parameters.scaleBatch = found.scale == nil ? 0 : 1
        found.parameters.shiftBatch = found.shift == nil ? 0 : 1
        return found
    }

    /// A constant, a recorded array, or nothing.
    private func affine(_ layer: SIGELayer, _ weight: String, _ name: String) throws -> SIGEMemory? {
        if name.isEmpty { return layer.weights[weight] }
        let recorded = try layer.context.array(name, channels: layer.channels)
        guard recorded.halfCount == layer.channels else {
            throw SIGELayerError("The recorded array '\(name)' has \(recorded.halfCount) values, expected \(layer.channels).")
        }
        return recorded
    }
}

/// A source with its arrays.
struct SIGEFoundSource {
    var parameters: SourceParameters
    let phases: Int
    var base: SIGEMemory?, base2: SIGEMemory?, halo: SIGEMemory?, table: SIGEMemory?
    var scale: SIGEMemory?, shift: SIGEMemory?

    /// In the order of the kernels' indices.
    var buffers: [SIGEMemory?] { [base, base2, halo, table, scale, shift] }

    /// Reads all channels of one tap of a target after affine and activation, and says which phase they are read at; nil for
    /// padding.
    func read(_ rows: SIGERows, _ rows2: SIGERows?, target: Int, tap: Int, activation: SIGEActivation, into x: inout [Float])
        throws -> Int?
    {
        let fresh = Int(parameters.fresh), channels = Int(parameters.channels)
        var entry = target, phase = 0
        if let table {
            entry = Int(table.integers[target * Int(parameters.taps) + tap])
            if entry < 0 { return nil }
            (entry, phase) = (entry / phases, entry % phases)
        }
        let split = channels - Int(parameters.channels2)
        if entry < fresh {
            for c in 0..<split { x[c] = rows[entry, c] }
            if let rows2 { for c in split..<channels { x[c] = rows2[entry, c - split] } }
        } else if let base, let halo {
            guard entry - fresh < halo.byteCount / 4 else {
                throw SIGELayerError(
                    "A table names halo pixel \(entry - fresh) of \(halo.byteCount / 4); set table and halo anew.")
            }
            let pixel = Int(halo.integers[entry - fresh])
            for c in 0..<split { x[c] = SIGEHalf.float(base.halves[pixel * split + c]) }
            if let base2 {
                let width = channels - split
                for c in split..<channels { x[c] = SIGEHalf.float(base2.halves[pixel * width + c - split]) }
            }
        }
        if let scale { for c in 0..<channels { x[c] *= SIGEHalf.float(scale.halves[c]) } }
        if let shift { for c in 0..<channels { x[c] += SIGEHalf.float(shift.halves[c]) } }
        if activation != .identity {
            for c in 0..<channels { x[c] = activation.apply(x[c], alpha: parameters.alpha) }
        }
        return phase
    }
}
