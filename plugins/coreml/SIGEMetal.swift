// The kernels of plugins/kernels/metal on one GPU: found, compiled once, and dispatched.
import Foundation
import Metal

/// Where the kernels' sources are, if not in a bundle of the app.
public enum SIGEKernels {
    private final class Place: @unchecked Sendable {
        let lock = NSLock()
        var folder: URL?
    }

    private static let place = Place()

    /// The folder plugins/kernels/metal, or a copy. Without it, kernels come out of a default.metallib that Xcode made of
    /// them, or out of the resource folder "metal", of the app's bundle or of the one that has the layers.
    public static var folder: URL? {
        get { place.lock.withLock { place.folder } }
        set { place.lock.withLock { place.folder = newValue } }
    }

    /// All kernels as one source: Metal compiles a string, which includes no files.
    static func source(in folder: URL) throws -> String {
        let names = [
            "parameters.h", "rows.h", "activation.h", "source.h", "product.h", "gather.metal", "conv.metal",
            "scatter.metal", "attention.metal",
        ]
        return try names.map { name in
            let url = folder.appendingPathComponent(name)
            guard let text = try? String(contentsOf: url, encoding: .utf8) else {
                throw SIGELayerError("The kernels cannot be read: '\(url.path)' is missing; build the package anew.")
            }
            let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
            return lines.filter { !$0.hasPrefix("#include \"") && !$0.hasPrefix("#pragma once") }.joined(separator: "\n")
        }.joined(separator: "\n")
    }
}

/// What a kernel is bound to. Textures and buffers are by index; a missing buffer is one that the kernel does not read.
struct SIGEDispatch<Parameters> {
    var kernel: String
    var textures: [any MTLTexture]
    var buffers: [SIGEMemory?]
    /// Bound behind the buffers.
    var parameters: Parameters
    var groups: (Int, Int, Int)
    var threads: (Int, Int)
    /// Bytes of threadgroup memory, a multiple of 16.
    var memory = 0
}

/// The kernels on one device.
final class SIGEMetal: @unchecked Sendable {
    private final class Registry: @unchecked Sendable {
        let lock = NSLock()
        var devices: [UInt64: SIGEMetal] = [:]
    }

    private static let registry = Registry()

    let device: any MTLDevice
    /// Whether the GPU has simdgroup matrices, and reductions over 32 lanes: family Apple 7 (A14, M1) or later.
    let isApple7: Bool
    private let library: any MTLLibrary
    private let nothing = SIGEMemory(byteCount: 16)
    private let lock = NSLock()
    private var pipelines: [String: any MTLComputePipelineState] = [:]

    static func of(_ device: any MTLDevice) throws -> SIGEMetal {
        try registry.lock.withLock {
            if let known = registry.devices[device.registryID] { return known }
            let made = try SIGEMetal(device)
            registry.devices[device.registryID] = made
            return made
        }
    }

    private init(_ device: any MTLDevice) throws {
        self.device = device
        isApple7 = device.supportsFamily(.apple7)
        library = try SIGEMetal.library(device)
    }

    private static func library(_ device: any MTLDevice) throws -> any MTLLibrary {
        var folder = SIGEKernels.folder
        if folder == nil {
            for bundle in [Bundle.main, Bundle(for: SIGEMetal.self)] {
                if let made = try? device.makeDefaultLibrary(bundle: bundle), made.makeFunction(name: "conv_images") != nil {
                    return made
                }
                folder = folder ?? bundle.url(forResource: "metal", withExtension: nil)
            }
        }
        guard let folder else {
            throw SIGELayerError("The Metal kernels are in no bundle of this app; set SIGEKernels.folder to their folder.")
        }
        do {
            return try device.makeLibrary(source: SIGEKernels.source(in: folder), options: nil)
        } catch let error as SIGELayerError {
            throw error
        } catch {
            throw SIGELayerError("Metal could not compile the kernels: \(error.localizedDescription)")
        }
    }

    private func pipeline(_ name: String) throws -> any MTLComputePipelineState {
        try lock.withLock {
            if let known = pipelines[name] { return known }
            guard let function = library.makeFunction(name: name) else {
                throw SIGELayerError("The Metal kernels have no '\(name)'; build the package anew.")
            }
            let made = try device.makeComputePipelineState(function: function)
            pipelines[name] = made
            return made
        }
    }

    /// Encodes one kernel. Neither commits nor waits.
    func encode<Parameters>(_ dispatch: SIGEDispatch<Parameters>, in commands: any MTLCommandBuffer) throws {
        let pipeline = try pipeline(dispatch.kernel)
        let nothing = try nothing.buffer(on: device)
        let buffers = try dispatch.buffers.map { try $0?.buffer(on: device) ?? nothing }
        let (x, y, z) = dispatch.groups
        guard x > 0, y > 0, z > 0 else { return }
        guard let encoder = commands.makeComputeCommandEncoder() else {
            throw SIGELayerError("Metal gave no compute encoder for '\(dispatch.kernel)'.")
        }
        encoder.label = "sige \(dispatch.kernel)"
        encoder.setComputePipelineState(pipeline)
        for (index, texture) in dispatch.textures.enumerated() { encoder.setTexture(texture, index: index) }
        for (index, buffer) in buffers.enumerated() { encoder.setBuffer(buffer, offset: 0, index: index) }
        withUnsafeBytes(of: dispatch.parameters) {
            encoder.setBytes($0.baseAddress!, length: $0.count, index: buffers.count)
        }
        if dispatch.memory > 0 { encoder.setThreadgroupMemoryLength(dispatch.memory, index: 0) }
        encoder.dispatchThreadgroups(
            MTLSize(width: x, height: y, depth: z),
            threadsPerThreadgroup: MTLSize(width: dispatch.threads.0, height: dispatch.threads.1, depth: 1))
        encoder.endEncoding()
    }
}

func ceilDivide(_ count: Int, _ size: Int) -> Int { (count + size - 1) / size }
