/// What is wrong with a file of tensors.
struct Damaged: Error {
    let what: String
}

/// A safetensors file in memory: a length of 8 bytes, a JSON header, the tensors.
public struct Safetensors: Sendable {
    private let bytes: [UInt8]
    private let header: [String: JSON]
    private let start: Int

    /// Reads a file; throws kind `bundle` where it is none.
    public init(at path: String) throws {
        do {
            self = try Safetensors(try contents(path))
        } catch let error as Damaged {
            throw Safetensors.none(path, error.what)
        } catch let error as SystemError {
            throw Safetensors.none(path, error.what)
        } catch let error as JSON.Mistake {
            throw Safetensors.none(path, error.what)
        }
    }

    private static func none(_ path: String, _ why: String) -> SigeError {
        SigeError(.bundle, "\(named(path)) is not a safetensors file (\(why)); export the bundle anew.")
    }

    private init(_ bytes: [UInt8]) throws {
        guard bytes.count >= 8 else { throw Damaged(what: "it is shorter than its header") }
        let length = bytes[..<8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= UInt64(bytes.count - 8) else { throw Damaged(what: "it is shorter than its header") }
        start = 8 + Int(length)
        guard case .object(let header) = try JSON(parsing: Array(bytes[8..<start])) else {
            throw Damaged(what: "its header is no JSON object")
        }
        self.bytes = bytes
        self.header = header
    }

    /// Names of all tensors, sorted.
    public var names: [String] { header.keys.filter { $0 != "__metadata__" }.sorted(by: precedes) }

    /// Whether there is a tensor of this name.
    public func has(_ name: String) -> Bool { header[name] != nil }

    /// A tensor by name; throws kind `bundle` where there is none, or where it does not lie in the file.
    public func tensor(_ name: String) throws -> Tensor {
        do {
            return try read(name)
        } catch let error as Damaged {
            throw SigeError(.bundle, "a safetensors file lacks a good tensor (\(error.what)); export the bundle anew.")
        }
    }

    /// A tensor by name; throws `Damaged`.
    func read(_ name: String) throws -> Tensor {
        guard case .object(let entry)? = header[name] else { throw Damaged(what: named(name)) }
        guard case .text(let saved)? = entry["dtype"], let dtype = DType.allCases.first(where: { $0.saved == saved })
        else { throw Damaged(what: "\(name) has a type that is not known") }
        let shape = Safetensors.sizes(entry["shape"])
        let offsets = Safetensors.sizes(entry["data_offsets"])
        guard let shape, let offsets, offsets.count == 2, offsets[0] <= offsets[1],
            offsets[1] <= bytes.count - start,
            let wanted = Safetensors.product([dtype.size] + shape), wanted == offsets[1] - offsets[0]
        else { throw Damaged(what: "\(name) does not lie inside the file") }
        var tensor = Tensor(zeros: dtype, shape: shape)
        tensor.bytes = Array(bytes[start + offsets[0]..<start + offsets[1]])
        return tensor
    }

    private static func sizes(_ json: JSON?) -> [Int]? {
        guard case .list(let entries)? = json else { return nil }
        let sizes = entries.compactMap { entry -> Int? in
            guard case .integer(let size) = entry, size >= 0 else { return nil }
            return Int(size)
        }
        return sizes.count == entries.count ? sizes : nil
    }

    private static func product(_ sizes: [Int]) -> Int? {
        sizes.reduce(Optional(1)) { product, size in
            guard let (result, overflow) = product?.multipliedReportingOverflow(by: size), !overflow else { return nil }
            return result
        }
    }
}
