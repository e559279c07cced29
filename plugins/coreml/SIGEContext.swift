// What layers read besides their tensors: an edit's indices and the recorded state, by name.
//
// Core ML makes layers itself, possibly twice, and hands them tensors alone; halves, moreover, which hold integers only up to
// 2048. So indices and recorded arrays wait here, where a layer finds them by the number in its parameter `context`.
import Foundation

/// The indices of an edit and the recorded arrays of one model. Set all of it before a prediction, and change nothing while one
/// runs; several models, or several images, have a context each.
public final class SIGEContext: @unchecked Sendable {
    private final class Registry: @unchecked Sendable {
        let lock = NSLock()
        var contexts: [Int: SIGEContext] = [:]
    }

    struct Level {
        let active: SIGEMemory  // int32, padded to the bucket
        let live: SIGEMemory  // one int32
        let count: Int
    }

    struct Geometry {
        let table: SIGEMemory  // int32 [R, K]
        let halo: SIGEMemory  // int32 [Q], or one 0
    }

    private static let registry = Registry()
    private let lock = NSLock()
    private var levels: [String: Level] = [:]
    private var geometries: [String: Geometry] = [:]
    private var arrays: [String: SIGEMemory] = [:]
    private var encodes = 0, evaluations = 0

    /// The context of that number, made at its first use.
    public static func context(_ id: Int) -> SIGEContext {
        registry.lock.withLock {
            if let known = registry.contexts[id] { return known }
            let made = SIGEContext()
            registry.contexts[id] = made
            return made
        }
    }

    /// Forgets a context and what it holds.
    public static func remove(_ id: Int) {
        registry.lock.withLock { registry.contexts[id] = nil }
    }

    /// The active pixels of a level, ascending and padded to the rows of the bucket; the first `live` of them are real. Rows
    /// from there on are not computed.
    public func setActive(_ pixels: [Int32], level: String, live: Int) {
        precondition(live >= 0 && live <= pixels.count, "there are fewer active pixels than live ones")
        let made = Level(
            active: SIGEMemory(copying: pixels), live: SIGEMemory(copying: [Int32(live)]), count: live)
        lock.withLock { levels[level] = made }
    }

    /// Table [R, K], for the padded R, and halo of a geometry. Halo pixel q is entry P + q (times phases), for the padded P of
    /// the source level.
    public func setTable(_ entries: [Int32], halo: [Int32], geometry: String) {
        let made = Geometry(table: SIGEMemory(copying: entries), halo: SIGEMemory(copying: halo))
        lock.withLock { geometries[geometry] = made }
    }

    /// A recorded array, a base [N, C] or an affine [C], channels last: float16 bits, which are copied.
    public func setArray(_ name: String, halves: UnsafeRawBufferPointer) {
        let made = SIGEMemory(copying: halves)
        lock.withLock { arrays[name] = made }
    }

    /// The same from floats, which are rounded.
    public func setArray(_ name: String, values: [Float]) {
        let halves = values.map(SIGEHalf.bits)
        halves.withUnsafeBytes { setArray(name, halves: $0) }
    }

    /// The memory of a recorded array, to be written only while no prediction runs, as when an edit becomes part of the base.
    public func array(_ name: String) -> SIGEMemory? { lock.withLock { arrays[name] } }

    /// Forgets all recorded arrays.
    public func removeArrays() { lock.withLock { arrays = [:] } }

    /// How often layers of this context ran on the GPU and on the CPU.
    public var calls: (encoded: Int, evaluated: Int) { lock.withLock { (encodes, evaluations) } }

    func note(encoded: Bool) { lock.withLock { if encoded { encodes += 1 } else { evaluations += 1 } } }

    func level(_ name: String) throws -> Level {
        guard let found = lock.withLock({ levels[name] }) else {
            throw SIGELayerError("The active pixels of level '\(name)' are not set; set them before the prediction.")
        }
        return found
    }

    func geometry(_ name: String) throws -> Geometry {
        guard let found = lock.withLock({ geometries[name] }) else {
            throw SIGELayerError("The table of geometry '\(name)' is not set; set it before the prediction.")
        }
        return found
    }

    /// A recorded array whose size is a multiple of `channels`.
    func array(_ name: String, channels: Int) throws -> SIGEMemory {
        guard let found = array(name) else {
            throw SIGELayerError("The recorded array '\(name)' is not set; record an image before the prediction.")
        }
        guard found.byteCount > 0, found.byteCount % (2 * channels) == 0 else {
            throw SIGELayerError(
                "The recorded array '\(name)' has \(found.byteCount) bytes, expected halves of \(channels) channels.")
        }
        return found
    }
}

/// One sentence on why a layer cannot do what it is asked.
public struct SIGELayerError: Error, LocalizedError, CustomStringConvertible {
    public let description: String
    public var errorDescription: String? { description }

    init(_ sentence: String) { description = sentence }
}
