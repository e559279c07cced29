// As much of Metal as plugins/coreml uses. What a compute encoder dispatches runs at once, on the kernels compiled for the CPU.
import Foundation

@_silgen_name("sige_dispatch")
private func sige_dispatch(
    _ name: UnsafePointer<CChar>, _ textures: UnsafePointer<UnsafeRawPointer?>, _ buffers: UnsafePointer<UnsafeMutableRawPointer?>,
    _ groups: UnsafePointer<UInt32>, _ threads: UnsafePointer<UInt32>, _ bytes: Int
) -> Int32

public enum MTLGPUFamily: Int { case apple7 = 1007 }

public struct MTLResourceOptions: OptionSet {
    public let rawValue: UInt
    public init(rawValue: UInt) { self.rawValue = rawValue }
    public static let storageModeShared = MTLResourceOptions([])
}

public struct MTLSize {
    public var width: Int, height: Int, depth: Int
    public init(width: Int, height: Int, depth: Int) { (self.width, self.height, self.depth) = (width, height, depth) }
}

public final class MTLCompileOptions {}

public protocol MTLBuffer: AnyObject { func contents() -> UnsafeMutableRawPointer }
public protocol MTLTexture: AnyObject {
    var width: Int { get }
    var height: Int { get }
    var arrayLength: Int { get }
}
public protocol MTLFunction: AnyObject { var name: String { get } }
public protocol MTLComputePipelineState: AnyObject {}
public protocol MTLLibrary: AnyObject { func makeFunction(name: String) -> (any MTLFunction)? }
public protocol MTLDevice: AnyObject {
    var registryID: UInt64 { get }
    func supportsFamily(_ family: MTLGPUFamily) -> Bool
    func makeBuffer(
        bytesNoCopy pointer: UnsafeMutableRawPointer, length: Int, options: MTLResourceOptions,
        deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?
    ) -> (any MTLBuffer)?
    func makeDefaultLibrary(bundle: Bundle) throws -> any MTLLibrary
    func makeLibrary(source: String, options: MTLCompileOptions?) throws -> any MTLLibrary
    func makeComputePipelineState(function: any MTLFunction) throws -> any MTLComputePipelineState
}
public protocol MTLCommandBuffer: AnyObject {
    var device: any MTLDevice { get }
    func makeComputeCommandEncoder() -> (any MTLComputeCommandEncoder)?
}
public protocol MTLComputeCommandEncoder: AnyObject {
    var label: String? { get set }
    func setComputePipelineState(_ state: any MTLComputePipelineState)
    func setTexture(_ texture: (any MTLTexture)?, index: Int)
    func setBuffer(_ buffer: (any MTLBuffer)?, offset: Int, index: Int)
    func setBytes(_ bytes: UnsafeRawPointer, length: Int, index: Int)
    func setThreadgroupMemoryLength(_ length: Int, index: Int)
    func dispatchThreadgroups(_ groups: MTLSize, threadsPerThreadgroup threads: MTLSize)
    func endEncoding()
}

/// Texels [slice][line][place][4] of float16, NaN at first.
public final class TestTexture: MTLTexture {
    public let width: Int, height: Int, arrayLength: Int
    public let texels: UnsafeMutablePointer<UInt16>
    fileprivate let described: UnsafeMutableRawPointer  // struct Texture of host.cpp

    public init(width: Int, height: Int, arrayLength: Int) {
        (self.width, self.height, self.arrayLength) = (width, height, arrayLength)
        texels = .allocate(capacity: width * height * arrayLength * 4)
        texels.initialize(repeating: 0x7e00, count: width * height * arrayLength * 4)
        described = .allocate(byteCount: 24, alignment: 8)
        described.storeBytes(of: UnsafeMutableRawPointer(texels), as: UnsafeMutableRawPointer.self)
        for (i, size) in [arrayLength, height, width].enumerated() {
            described.storeBytes(of: UInt32(size), toByteOffset: 8 + 4 * i, as: UInt32.self)
        }
    }

    deinit {
        texels.deallocate()
        described.deallocate()
    }
}

private final class TestBuffer: MTLBuffer {
    private let pointer: UnsafeMutableRawPointer
    private let length: Int, deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?

    init(_ pointer: UnsafeMutableRawPointer, _ length: Int, _ deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?) {
        (self.pointer, self.length, self.deallocator) = (pointer, length, deallocator)
    }
    deinit { deallocator?(pointer, length) }
    func contents() -> UnsafeMutableRawPointer { pointer }
}

private final class TestFunction: MTLFunction, MTLComputePipelineState {
    let name: String
    init(_ name: String) { self.name = name }
}

private final class TestLibrary: MTLLibrary {
    let source: String
    init(_ source: String) { self.source = source }
    func makeFunction(name: String) -> (any MTLFunction)? {
        source.contains("kernel void \(name)(") ? TestFunction(name) : nil
    }
}

private struct NoLibrary: Error {}

/// A GPU with simdgroup matrices, or without.
public final class TestDevice: MTLDevice {
    public let registryID: UInt64
    private let hasMatrices: Bool

    public init(hasMatrices: Bool) { (self.hasMatrices, registryID) = (hasMatrices, hasMatrices ? 1 : 2) }
    public func supportsFamily(_ family: MTLGPUFamily) -> Bool { hasMatrices }
    public func makeBuffer(
        bytesNoCopy pointer: UnsafeMutableRawPointer, length: Int, options: MTLResourceOptions,
        deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?
    ) -> (any MTLBuffer)? {
        precondition(Int(bitPattern: pointer) % Int(getpagesize()) == 0 && length % Int(getpagesize()) == 0, "whole pages")
        return TestBuffer(pointer, length, deallocator)
    }
    public func makeDefaultLibrary(bundle: Bundle) throws -> any MTLLibrary { throw NoLibrary() }
    public func makeLibrary(source: String, options: MTLCompileOptions?) throws -> any MTLLibrary { TestLibrary(source) }
    public func makeComputePipelineState(function: any MTLFunction) throws -> any MTLComputePipelineState {
        TestFunction(function.name)
    }
}

public final class TestCommandBuffer: MTLCommandBuffer {
    public let device: any MTLDevice
    public init(device: any MTLDevice) { self.device = device }
    public func makeComputeCommandEncoder() -> (any MTLComputeCommandEncoder)? { TestEncoder() }
}

private final class TestEncoder: MTLComputeCommandEncoder {
    var label: String?
    private var name = "", memory = 0
    private var textures = [TestTexture?](repeating: nil, count: 31), buffers = [UnsafeMutableRawPointer?](repeating: nil, count: 31)
    private var kept: [UnsafeMutableRawPointer] = []

    deinit { kept.forEach { $0.deallocate() } }
    func setComputePipelineState(_ state: any MTLComputePipelineState) { name = (state as! TestFunction).name }
    func setTexture(_ texture: (any MTLTexture)?, index: Int) { textures[index] = texture as? TestTexture }
    func setBuffer(_ buffer: (any MTLBuffer)?, offset: Int, index: Int) {
        buffers[index] = buffer.map { $0.contents() + offset }
    }
    func setBytes(_ bytes: UnsafeRawPointer, length: Int, index: Int) {
        precondition(length <= 4096, "more bytes than setBytes takes")
        let copy = UnsafeMutableRawPointer.allocate(byteCount: length, alignment: 16)
        copy.copyMemory(from: bytes, byteCount: length)
        kept.append(copy)
        buffers[index] = copy
    }
    func setThreadgroupMemoryLength(_ length: Int, index: Int) {
        precondition(length % 16 == 0 && length <= 32768, "threadgroup memory that Metal does not give")
        memory = length
    }
    func dispatchThreadgroups(_ groups: MTLSize, threadsPerThreadgroup threads: MTLSize) {
        precondition(threads.width * threads.height * threads.depth <= 1024, "more threads than a group may have")
        let described = textures.map { $0.map { UnsafeRawPointer($0.described) } }
        let unknown = sige_dispatch(
            name, described, buffers, [groups.width, groups.height, groups.depth].map(UInt32.init),
            [threads.width, threads.height, threads.depth].map(UInt32.init), memory)
        precondition(unknown == 0, "there is no kernel \(name)")
    }
    func endEncoding() {}
}
