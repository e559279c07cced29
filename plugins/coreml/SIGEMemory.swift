// Memory that the CPU and any GPU read without a copy.
import Foundation
import Metal

/// Bytes in whole pages, as Metal needs them to make a buffer of memory that is there already.
public final class SIGEMemory: @unchecked Sendable {
    private final class Pages: @unchecked Sendable {
        let start: UnsafeMutableRawPointer

        init(_ start: UnsafeMutableRawPointer) { self.start = start }
        deinit { free(start) }
    }

    public let byteCount: Int
    private let pages: Pages, capacity: Int
    private let lock = NSLock()
    private var buffers: [UInt64: any MTLBuffer] = [:]  // by device

    /// Zeros.
    init(byteCount: Int) {
        let page = Int(getpagesize())
        self.byteCount = byteCount
        capacity = max((byteCount + page - 1) / page * page, page)
        var start: UnsafeMutableRawPointer?
        guard posix_memalign(&start, page, capacity) == 0, let start else { fatalError("out of memory") }
        memset(start, 0, capacity)
        pages = Pages(start)
    }

    convenience init(copying source: UnsafeRawBufferPointer) {
        self.init(byteCount: source.count)
        bytes.copyMemory(from: source)
    }

    convenience init(copying values: [Int32]) {
        self.init(byteCount: 4 * values.count)
        values.withUnsafeBytes { bytes.copyMemory(from: $0) }
    }

    /// The bytes themselves.
    public var bytes: UnsafeMutableRawBufferPointer { .init(start: pages.start, count: byteCount) }

    var integers: UnsafePointer<Int32> { UnsafePointer(pages.start.assumingMemoryBound(to: Int32.self)) }
    var halves: UnsafePointer<UInt16> { UnsafePointer(pages.start.assumingMemoryBound(to: UInt16.self)) }
    var halfCount: Int { byteCount / 2 }

    /// The same memory as a buffer of a device.
    func buffer(on device: any MTLDevice) throws -> any MTLBuffer {
        try lock.withLock {
            if let known = buffers[device.registryID] { return known }
            let pages = self.pages  // lives as long as the buffer, which a command buffer may outlive this object with
            guard
                let made = device.makeBuffer(
                    bytesNoCopy: pages.start, length: capacity, options: .storageModeShared,
                    deallocator: { _, _ in withExtendedLifetime(pages) {} })
            else { throw SIGELayerError("The GPU has no room for \(capacity) bytes; close other programs.") }
            buffers[device.registryID] = made
            return made
        }
    }
}
