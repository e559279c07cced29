// The recorded arrays and the tables that layers read, in the context that the models name.
import Foundation
import SIGECore
import SIGELayers

/// What layers of one bundle read besides their tensors. The models know their context by a number that follows from the
/// bundle, so a process has one registry for each bundle at a time.
final class BaseRegistry: @unchecked Sendable {
    private static let lock = NSLock()
    nonisolated(unsafe) private static var open: Set<Int> = []

    private let id: Int
    private let context: SIGEContext
    private var released = false
    /// Bytes of the recorded arrays.
    private(set) var bytes = 0

    /// Throws kind `state` where another session of the bundle is open.
    init(_ id: Int) throws {
        guard BaseRegistry.lock.withLock({ BaseRegistry.open.insert(id).inserted }) else {
            throw SigeError(
                .state, "a session of this bundle is open in this process already; close it before opening another.")
        }
        self.id = id
        context = SIGEContext.context(id)
        // A linker keeps classes that are named; Core ML looks them up by their names.
        _ = [SIGEGather.self, SIGEConv.self, SIGEScatter.self, SIGEAttention.self] as [AnyClass]
    }

    deinit { release() }

    /// Forgets everything; the bundle may be opened again.
    func release() {
        if released { return }
        released = true
        SIGEContext.remove(id)
        BaseRegistry.lock.withLock { _ = BaseRegistry.open.remove(id) }
    }

    /// How often layers ran so far, on the GPU and on the CPU.
    var calls: (encoded: Int, evaluated: Int) { context.calls }

    /// Puts the arrays of a record in force: halves, channels last, by cache name.
    func put(_ arrays: [String: [UInt16]]) {
        for (name, halves) in arrays { halves.withUnsafeBytes { context.setArray(name, halves: $0) } }
        bytes = arrays.values.reduce(0) { $0 + 2 * $1.count }
    }

    /// Sets what an edit reads. models: names the tables wanted.
    func put(_ indices: EditIndices, for models: CoreMLFolder) {
        for (level, pixels) in indices.active {
            context.setActive(pixels, level: level, live: indices.counts[level]!)
        }
        for geometry in models.geometries {
            let halo = indices.halos[geometry.id]!
            context.setTable(indices.tables[geometry.id]!, halo: halo.isEmpty ? [0] : halo, geometry: geometry.id)
        }
    }

    /// Writes fresh rows, halves [P, C] or wider ones that hold these channels, into a recorded base at its active
    /// pixels.
    func write(_ rows: [UInt16], at active: [Int32], into cache: CacheSpec) {
        guard !active.isEmpty, let base = context.array(cache.name) else { return }
        let channels = cache.shape[2]
        let stride = cache.rowsChannels ?? channels
        rows.withUnsafeBytes { from in
            for (row, pixel) in active.enumerated() {
                let place = base.bytes.baseAddress! + Int(pixel) * channels * 2
                let fresh = from.baseAddress! + (row * stride + cache.rowsOffset) * 2
                place.copyMemory(from: fresh, byteCount: channels * 2)
            }
        }
    }
}
