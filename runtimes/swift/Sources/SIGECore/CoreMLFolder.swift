/// The Core ML models of a bundle: the folder `coreml/float16` and its manifest, as `sige_deploy/coreml/manifest.py`
/// defines it. Sizes and SHA-256 of all files are checked when it is read.
public struct CoreMLFolder: Sendable {
    /// An input or output of the edit models, [1, channels, 1, P]: P is the bucket's rows of `level`, or 1 without one.
    public struct TensorSpec: Sendable {
        public let name: String
        public let channels: Int
        public let level: String?
    }

    /// A table that layers read out of the context.
    public struct TableSpec: Sendable {
        public let id: String
        public let source: String
        public let target: String
    }

    static let schemaVersion: Int64 = 1
    static let folder = "coreml/float16"
    static let manifest = "coreml.json"

    /// Absolute path of the folder.
    public let root: String
    /// SHA-256 of the manifest, hexadecimal: folders of the same id hold the same models.
    public let id: String
    /// The number by which the layers know their context.
    public let context: Int
    /// Rows of each level, by id, of the model `edit-<k>.mlmodel`, the smallest first.
    public let buckets: [[String: Int]]
    public let inputs: [TensorSpec]
    public let outputs: [TensorSpec]
    /// Names of the recorded arrays that layers read: bases [1, N, C] and affines [1, 1, C].
    public let arrays: [String]
    public let geometries: [TableSpec]
    /// Levels whose active pixels layers read.
    public let active: [String]
    /// Absolute path of the dense model that records; nil: Core ML cannot run it, for `recordRefused`.
    public let record: String?
    /// Names of the bundle's inputs, by the record model's.
    public let recordInputs: [String: String]
    /// Names of the bundle's outputs and caches, by the record model's.
    public let recordOutputs: [String: String]
    public let recordRefused: String?

    private static let again = "build the models anew with 'sige-deploy build --target coreml'"

    /// The models of a bundle; throws kind `bundle` where there are none, or they are altered or of another bundle.
    public init(of bundle: SigeBundle) throws {
        let root = bundle.root + "/" + CoreMLFolder.folder
        let file = root + "/" + CoreMLFolder.manifest
        guard (try? FileStatus(file))?.regular == true else {
            throw SigeError(.bundle, "bundle \(named(bundle.root)) has no Core ML models; \(CoreMLFolder.again).")
        }
        let (folder, built, files) = try CoreMLFolder.parse(file, root)
        if built != bundle.manifest.bundleID {
            throw SigeError(
                .bundle, "the models of \(named(root)) were built from another bundle; \(CoreMLFolder.again).")
        }
        for name in files.keys.sorted(by: precedes) { try CoreMLFolder.check(root + "/" + name, files[name]!) }
        try folder.checkFit(bundle.manifest)
        self = folder
    }

    /// The file of the edit model of a bucket.
    public func edit(_ bucket: Int) -> String { "\(root)/edit-\(bucket).mlmodel" }

    private static func check(_ path: String, _ spec: FileSpec) throws {
        do {
            let whole = try FileStatus(path).bytes == spec.bytes && sha256(path) == spec.sha256
            if !whole { throw SigeError(.bundle, "\(named(path)) was altered or cut short; \(again).") }
        } catch let error as SystemError {
            throw SigeError(.bundle, "cannot read \(named(path)) (\(error.what)); \(again).")
        }
    }

    private static func parse(_ path: String, _ root: String) throws -> (CoreMLFolder, String, [String: FileSpec]) {
        let json: JSON
        let id: String
        do {
            let text = try contents(path)
            id = SHA256Sum.hex(of: text)
            json = try JSON(parsing: text)
        } catch let error as SystemError {
            throw SigeError(.bundle, "cannot read \(named(path)) (\(error.what)); \(again).")
        } catch let error as JSON.Mistake {
            throw SigeError(.bundle, "\(named(path)) is truncated or not JSON (\(error.what)); \(again).")
        }
        guard case .object(let entries) = json, case .integer(let version)? = entries["schema_version"],
            version == schemaVersion
        else {
            var found = "None"
            if case .object(let entries) = json, case .integer(let other)? = entries["schema_version"] {
                found = "\(other)"
            }
            throw SigeError(
                .bundle,
                "\(named(path)) has schema_version \(found), this sige_deploy reads \(schemaVersion); \(again).")
        }
        do {
            return try Value(json: json, place: "").object("CoreMLManifest") { try read($0, root, id) }
        } catch let error as Invalid {
            throw SigeError(.bundle, "\(named(path)) is not valid at \(error.place): \(error.what); \(again).")
        }
    }

    private static func read(
        _ fields: Fields, _ root: String, _ id: String
    ) throws -> (CoreMLFolder, String, [String: FileSpec]) {
        _ = fields.find("schema_version")
        let bundle = try fields.required("bundle").text()
        _ = try fields.find("precision")?.one(of: ["float16"])
        let context = try fields.required("context").integer(atLeast: 0)
        let buckets = try fields.required("buckets").list { bucket in
            try bucket.entries().mapValues { try $0.integer(atLeast: 1) }
        }
        let inputs = try fields.required("inputs").list(tensor)
        let outputs = try fields.required("outputs").list(tensor)
        let arrays = try fields.required("arrays").list { value in
            try value.object("ArraySpec") { array in
                _ = try array.required("shape").integers(atLeast: 0)
                return try array.required("name").text()
            }
        }
        let geometries = try fields.required("geometries").list(table)
        let active = try fields.required("active").list { try $0.text() }
        _ = try fields.required("layers").list { $0 }  // the models hold them too
        let record = try fields.optional("record")?.text()
        let recordInputs = try fields.find("record_inputs")?.entries().mapValues { try $0.text() } ?? [:]
        let recordOutputs = try fields.find("record_outputs")?.entries().mapValues { try $0.text() } ?? [:]
        let refused = try fields.optional("record_refused")?.text()
        let files = try fields.required("files").entries().mapValues(FileSpec.init)
        _ = fields.find("producer")
        for name in files.keys.sorted(by: precedes) where !staysInside(name) {
            throw fields.value.invalid("file name \(named(name)) is not a plain relative path inside the bundle")
        }
        let folder = CoreMLFolder(
            root: root, id: id, context: context, buckets: buckets, inputs: inputs, outputs: outputs, arrays: arrays,
            geometries: geometries, active: active, record: record.map { "\(root)/\($0)" }, recordInputs: recordInputs,
            recordOutputs: recordOutputs, recordRefused: refused)
        return (folder, bundle, files)
    }

    private init(
        root: String, id: String, context: Int, buckets: [[String: Int]], inputs: [TensorSpec], outputs: [TensorSpec],
        arrays: [String], geometries: [TableSpec], active: [String], record: String?, recordInputs: [String: String],
        recordOutputs: [String: String], recordRefused: String?
    ) {
        self.root = root
        self.id = id
        self.context = context
        self.buckets = buckets
        self.inputs = inputs
        self.outputs = outputs
        self.arrays = arrays
        self.geometries = geometries
        self.active = active
        self.record = record
        self.recordInputs = recordInputs
        self.recordOutputs = recordOutputs
        self.recordRefused = recordRefused
    }

    /// Throws kind `bundle` where the models name what the bundle lacks.
    private func checkFit(_ manifest: Manifest) throws {
        let levels = Set(manifest.levels.map(\.id))
        let fits =
            !buckets.isEmpty && buckets.allSatisfy { Set($0.keys) == levels }
            && (inputs + outputs).allSatisfy { $0.level.map(levels.contains) ?? true }
            && active.allSatisfy(levels.contains)
            && geometries.allSatisfy { g in manifest.geometries.contains { $0.id == g.id } }
            && arrays.allSatisfy { name in manifest.caches.contains { $0.name == name } }
            && (record == nil || Set(recordInputs.values) == Set(manifest.inputs.map(\.name)))
            && (record == nil || Set(recordOutputs.values).isSuperset(of: arrays + manifest.outputs.map(\.name)))
        if !fits {
            throw SigeError(.bundle, "the models of \(named(root)) do not fit the bundle; \(CoreMLFolder.again).")
        }
    }
}

private func tensor(_ value: Value) throws -> CoreMLFolder.TensorSpec {
    try value.object("TensorSpec") { fields in
        CoreMLFolder.TensorSpec(
            name: try fields.required("name").text(), channels: try fields.required("channels").integer(atLeast: 1),
            level: try fields.optional("level")?.text())
    }
}

private func table(_ value: Value) throws -> CoreMLFolder.TableSpec {
    try value.object("GeometrySpec") { fields in
        let spec = CoreMLFolder.TableSpec(
            id: try fields.required("id").text(), source: try fields.required("source").text(),
            target: try fields.required("target").text())
        _ = try fields.required("taps").integer(atLeast: 1)
        _ = try fields.required("phases").integer(atLeast: 1)
        return spec
    }
}
