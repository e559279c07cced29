/// Arrays by name.
public typealias Tensors = [String: Tensor]

extension Manifest {
    /// Throws kind `input` for unknown or missing names, another dtype or shape, NaN and infinity.
    public func check(_ given: Tensors) throws {
        let names = inputs.map(\.name)
        for name in given.keys.sorted(by: precedes) where !names.contains(name) {
            throw SigeError(.input, "the network has no input \(named(name)); its inputs are \(listed(names)).")
        }
        for spec in inputs {
            guard let tensor = given[spec.name] else {
                throw SigeError(
                    .input, "input \(named(spec.name)) is missing; the network's inputs are \(listed(names)).")
            }
            let expected = "\(spec.dtype.rawValue) of shape \(spec.shape)"
            if tensor.dtype != spec.dtype {
                throw SigeError(
                    .input,
                    "input \(named(spec.name)) has dtype \(tensor.dtype.rawValue); expected \(expected), "
                        + "so convert it first.")
            }
            if tensor.shape != spec.shape {
                throw SigeError(
                    .input, "input \(named(spec.name)) has shape \(tensor.shape); expected \(expected).")
            }
        }
        for spec in inputs where !given[spec.name]!.finite {
            throw SigeError(.input, "input \(named(spec.name)) holds NaN or infinity; every value must be finite.")
        }
    }

    /// Throws kind `input` for a mask of another size than the first spatial input's.
    public func check(_ mask: Mask) throws {
        let (height, width) = (spatial[0].size(.y), spatial[0].size(.x))
        if mask.height != height || mask.width != width {
            throw SigeError(
                .input,
                "mask has shape [\(mask.height), \(mask.width)]; expected a bool array of shape [\(height), \(width)], "
                    + "the size of the spatial input.")
        }
    }

    /// Throws kind `input` where a pinned input differs from the recorded one in any bit.
    public func checkPinned(_ given: Tensors, recorded: Tensors) throws {
        for spec in inputs where spec.role == .pinned && given[spec.name] != recorded[spec.name] {
            throw SigeError(
                .input,
                "input \(named(spec.name)) must be as recorded in an edit "
                    + "(\(spec.reason ?? "the caches hold its effect")); pass the recorded value, or record anew.")
        }
    }

    /// The edited pixels of each spatial input at its own size: those of a mask at the size of the first one, or those
    /// that differ from the record.
    public func editedPixels(_ given: Tensors, recorded: Tensors, mask: Mask?) -> [Mask] {
        spatial.map { spec in
            if let mask {
                return mask.resampled(height: spec.size(.y), width: spec.size(.x), threshold: threshold)
            }
            return difference(given[spec.name]!, recorded[spec.name]!, spec)
        }
    }

    /// Pixels where |a - b| > eps for any image and channel. Floats of up to 32 bits are subtracted in float32, all else in
    /// float64; eps 0 compares values exactly.
    func difference(_ a: Tensor, _ b: Tensor, _ spec: InputSpec) -> Mask {
        var mask = Mask(height: spec.size(.y), width: spec.size(.x))
        switch spec.dtype {
        case .float16:
            let (x, y) = (a.floats(), b.floats())
            mark(&mask, spec) { eps > 0 ? Double(abs(x[$0] - y[$0])) > eps : x[$0] != y[$0] }
        case .float32: mark(&mask, spec, a, b, Float.self) { Double(abs($0 - $1)) > eps }
        case .float64: mark(&mask, spec, a, b, Double.self) { abs($0 - $1) > eps }
        case .bool, .uint8: mark(&mask, spec, a, b, UInt8.self) { abs(Double($0) - Double($1)) > eps }
        case .int8: mark(&mask, spec, a, b, Int8.self) { abs(Double($0) - Double($1)) > eps }
        case .int16: mark(&mask, spec, a, b, Int16.self) { abs(Double($0) - Double($1)) > eps }
        case .int32: mark(&mask, spec, a, b, Int32.self) { abs(Double($0) - Double($1)) > eps }
        case .int64: mark(&mask, spec, a, b, Int64.self) { abs(Double($0) - Double($1)) > eps }
        case .uint16: mark(&mask, spec, a, b, UInt16.self) { abs(Double($0) - Double($1)) > eps }
        case .uint32: mark(&mask, spec, a, b, UInt32.self) { abs(Double($0) - Double($1)) > eps }
        case .uint64: mark(&mask, spec, a, b, UInt64.self) { abs(Double($0) - Double($1)) > eps }
        }
        return mask
    }

    private func mark<T: Equatable>(
        _ mask: inout Mask, _ spec: InputSpec, _ a: Tensor, _ b: Tensor, _ type: T.Type, beyond: (T, T) -> Bool
    ) {
        a.bytes.withUnsafeBytes { first in
            b.bytes.withUnsafeBytes { second in
                let (x, y) = (first.bindMemory(to: T.self), second.bindMemory(to: T.self))
                if eps > 0 {
                    mark(&mask, spec) { x[$0] != y[$0] && beyond(x[$0], y[$0]) }
                } else {
                    mark(&mask, spec) { x[$0] != y[$0] }
                }
            }
        }
    }

    private func mark(_ mask: inout Mask, _ spec: InputSpec, where differs: (Int) -> Bool) {
        let at = Offsets(spec)
        for n in at.n {
            for c in at.c {
                var pixel = 0
                for y in at.y {
                    let row = n + c + y
                    for x in at.x {
                        if differs(row + x) { mask.pixels[pixel] = 1 }
                        pixel += 1
                    }
                }
            }
        }
    }
}
