extension Manifest {
    /// A manifest out of its JSON value; throws `Invalid`.
    init(_ json: JSON) throws {
        self = try Value(json: json, place: "").object("Manifest") { fields in
            _ = fields.find("schema_version")  // the bundle has checked the versions before
            _ = fields.find("op_set_version")
            let name = try fields.required("name").text()
            let inputs = try fields.required("inputs").list(InputSpec.init)
            let outputs = try fields.required("outputs").list(OutputSpec.init)
            let levels = try fields.required("levels").list(LevelSpec.init)
            let geometries = try fields.find("geometries")?.list(GeometrySpec.init) ?? []
            let caches = try fields.find("caches")?.list(CacheSpec.init) ?? []
            let policy = try fields.find("policy").map(Policy.init) ?? Policy()
            let gpuDenseAbove = try fields.find("planner").map(planner) ?? 1
            _ = try fields.find("islands")?.list { try remark($0, "IslandSpec", sized: true) }
            _ = try fields.find("refusals")?.list { try remark($0, "RefusalSpec", sized: false) }
            _ = try fields.required("precision").text()
            for (_, count) in try inOrder(fields.find("launches")) { _ = try count.integer(atLeast: 1) }
            _ = try fields.required("macs").integer(atLeast: 0)
            _ = try fields.required("parameters").integer(atLeast: 0)
            let files = try fields.find("files").map(fileList) ?? [:]
            for (_, version) in try inOrder(fields.find("producer")) { _ = try version.text() }
            return Manifest(
                name: name, inputs: inputs, outputs: outputs, levels: levels, geometries: geometries, caches: caches,
                eps: policy.eps, dilate: policy.dilate, threshold: policy.threshold, gpuDenseAbove: gpuDenseAbove,
                files: files)
        }
        try checkFit()
    }
}

/// Entries of an object in the order of their names; none where there is no object.
private func inOrder(_ value: Value?) throws -> [(String, Value)] {
    try (value?.entries() ?? [:]).sorted { precedes($0.key, $1.key) }.map { ($0.key, $0.value) }
}

private struct Policy {
    var eps = 0.0
    var dilate = 1
    var threshold = 0.3

    init() {}

    init(_ value: Value) throws {
        self = try value.object("PolicySpec") { fields in
            var policy = Policy()
            policy.eps = try fields.find("eps")?.number() ?? policy.eps
            policy.dilate = try fields.find("dilate")?.integer(atLeast: 0) ?? policy.dilate
            policy.threshold = try fields.find("threshold")?.number(atMost: 1) ?? policy.threshold
            _ = try fields.find("statistics")?.one(of: ["recorded", "fresh"])
            return policy
        }
    }
}

/// Active fraction above which an edit runs dense on a GPU.
private func planner(_ value: Value) throws -> Double {
    try value.object("PlannerSpec") { fields in
        _ = try fields.find("dense_above")?.number()
        let above = try fields.find("gpu_dense_above")?.number() ?? 1
        try fields.find("calibrated")?.boolean()
        return above
    }
}

/// What only people read: an island, or a refusal of the graph pass.
private func remark(_ value: Value, _ name: String, sized: Bool) throws {
    try value.object(name) { fields in
        for key in ["node", "op", "reason"] { _ = try fields.required(key).text() }
        if sized { _ = try fields.find("bytes")?.integer(atLeast: 0) }
    }
}

private func fileList(_ value: Value) throws -> [String: FileSpec] {
    var files: [String: FileSpec] = [:]
    for (name, entry) in try inOrder(value) { files[name] = try FileSpec(entry) }
    for name in files.keys.sorted(by: precedes) where !staysInside(name) {
        throw value.invalid("file name \(named(name)) is not a plain relative path inside the bundle")
    }
    return files
}

/// Whether a file name is a plain relative POSIX path.
func staysInside(_ name: String) -> Bool {
    let parts = name.split(separator: "/", omittingEmptySubsequences: false)
    return !parts.contains { ["", ".", ".."].contains($0) } && name != "manifest.json"
        && !name.unicodeScalars.contains { ["\\", ":", "\0"].contains($0) }
}

extension FileSpec {
    init(_ value: Value) throws {
        self = try value.object("FileSpec") { fields in
            let digest = try fields.required("sha256")
            let sha256 = try digest.text()
            guard sha256.utf8.count == 64, sha256.utf8.allSatisfy("0123456789abcdef".utf8.contains) else {
                throw digest.invalid("String should match pattern '^[0-9a-f]{64}$'")
            }
            return FileSpec(sha256: sha256, bytes: try fields.required("bytes").integer(atLeast: 0))
        }
    }
}

private func kind(_ value: Value) throws -> Kind { Kind(rawValue: try value.one(of: Kind.allCases.map(\.rawValue)))! }

extension InputSpec {
    init(_ value: Value) throws {
        let (spec, axes): (InputSpec, [Kind]?) = try value.object("InputSpec") { fields in
            let name = try fields.required("name").text()
            let shape = try fields.required("shape").integers(atLeast: 0)
            let dtype = try fields.required("dtype").dtype()
            let role = try fields.required("role").one(of: ["spatial", "pinned", "free"])
            let level = try fields.optional("level")?.text()
            let axes = try fields.optional("axes")?.list(kind)
            let reason = try fields.optional("reason")?.text()
            let spec = InputSpec(
                name: name, shape: shape, dtype: dtype, role: Role(rawValue: role)!, level: level, axes: axes ?? [],
                reason: reason)
            return (spec, axes)
        }
        self = spec
        guard role == .spatial else { return }
        guard level != nil, let axes else {
            throw value.invalid("spatial input \(named(name)) lacks its level or axes")
        }
        let all = "axes [\(listed(axes.map(\.rawValue)))] of "
        if axes.count != shape.count || Set(axes).count != axes.count {
            throw value.invalid("\(all)input \(named(name)) do not fit its shape \(shape)")
        }
        if !axes.contains(.y) || !axes.contains(.x) {
            throw value.invalid("\(all)spatial input \(named(name)) lack Y or X")
        }
    }
}

private func atom(_ value: Value) throws -> Atom {
    guard case .list(let pair) = value.json else { throw value.invalid("Input should be a valid tuple") }
    if pair.count > 2 {
        throw value.invalid("Tuple should have at most 2 items after validation, not \(pair.count)")
    }
    func item(_ i: Int) throws -> Value {
        guard i < pair.count else { throw value.at("\(i)", .null).invalid("Field required") }
        return value.at("\(i)", pair[i])
    }
    return Atom(kind: try kind(item(0)), size: try item(1).integer(atLeast: 1))
}

extension OutputSpec {
    init(_ value: Value) throws {
        let (spec, complete): (OutputSpec, Bool) = try value.object("OutputSpec") { fields in
            let name = try fields.required("name").text()
            let shape = try fields.required("shape").integers(atLeast: 0)
            let dtype = try fields.required("dtype").dtype()
            let level = try fields.optional("level")?.text()
            let layout = try fields.optional("layout")?.list { try $0.list(atom) }
            let order = try fields.optional("order")?.integers(atLeast: 0)
            let spec = OutputSpec(
                name: name, shape: shape, dtype: dtype, level: level, layout: layout ?? [], order: order ?? [])
            return (spec, layout != nil && order != nil)
        }
        self = spec
        guard level != nil else { return }
        if !complete { throw value.invalid("spatial output \(named(name)) lacks its layout or order") }
        let sizes = layout.map { $0.reduce(1) { $0 * $1.size } }
        if sizes != shape {
            throw value.invalid("layout of output \(named(name)) gives shape \(sizes), not \(shape)")
        }
        let channels = layout.joined().filter { $0.kind == .channel }.count
        if order.sorted() != Array(0..<channels) {
            throw value.invalid("order \(order) of output \(named(name)) is no order of its \(channels) C atoms")
        }
    }
}

extension LevelSpec {
    init(_ value: Value) throws {
        self = try value.object("LevelSpec") { fields in
            LevelSpec(
                id: try fields.required("id").text(),
                height: try fields.required("height").integer(atLeast: 1),
                width: try fields.required("width").integer(atLeast: 1),
                geometry: try fields.optional("geometry")?.text(),
                granularity: try fields.find("granularity")?.integer(atLeast: 1) ?? 1,
                dilation: try fields.find("dilation")?.integer(atLeast: 0) ?? 1,
                threshold: try fields.find("threshold")?.number(atMost: 1) ?? 0.3,
                macs: try fields.find("macs")?.integer(atLeast: 0) ?? 0)
        }
    }
}

extension GeometrySpec {
    init(_ value: Value) throws {
        self = try value.object("GeometrySpec") { fields in
            GeometrySpec(
                id: try fields.required("id").text(), source: try fields.required("source").text(),
                target: try fields.required("target").text())
        }
    }
}

extension CacheSpec {
    init(_ value: Value) throws {
        self = try value.object("CacheSpec") { fields in
            CacheSpec(
                name: try fields.required("name").text(),
                base: try fields.required("kind").one(of: ["base", "static"]) == "base",
                shape: try fields.required("shape").integers(atLeast: 0),
                dtype: try fields.required("dtype").dtype(),
                level: try fields.optional("level")?.text(),
                rows: try fields.optional("rows")?.text(),
                rowsChannels: try fields.optional("rows_channels")?.integer(atLeast: 1),
                rowsOffset: try fields.find("rows_offset")?.integer(atLeast: 0) ?? 0,
                reads: try fields.optional("reads")?.list { try $0.text() })
        }
    }
}
