/// A bundle's folder, checked before anything else in it is parsed.
///
/// Of the files that the manifest lists only those are opened that a session on Core ML needs: the ONNX graphs and
/// their weights may be left out on a device. The models in `coreml` are checked by `CoreMLFolder`.
public struct SigeBundle: Sendable {
    /// Absolute path of the folder.
    public let root: String
    public let manifest: Manifest

    static let required = [
        "record.onnx", "edit.onnx", "edit_inlined.onnx", "dense.onnx", "weights.safetensors", geometry,
    ]
    static let geometry = "geometry.safetensors"
    static let manifestLimit = 64 << 20  // bytes

    /// Opens the folder that `sige_deploy.export` wrote. Checks the manifest, its versions, paths, and size and SHA-256 of
    /// the geometry tables. Throws kind `bundle` with one sentence on the first thing that is wrong.
    public init(at path: String) throws {
        root = absolute(path)
        guard (try? FileStatus(root))?.folder == true else {
            throw SigeError(
                .bundle,
                "there is no bundle at \(named(root)); expected the folder that sige_deploy.export wrote.")
        }
        manifest = try SigeBundle.parse(root, try readJSON(root + "/manifest.json", limit: SigeBundle.manifestLimit))
        for name in SigeBundle.required where manifest.files[name] == nil {
            throw SigeError(
                .bundle,
                "the manifest of bundle \(named(root)) does not list \(named(name)); export the bundle anew.")
        }
        try checkFile(SigeBundle.geometry, in: root, manifest.files[SigeBundle.geometry]!)
    }

    /// The neighbourhoods of `geometry.safetensors`, in the manifest's order; throws kind `bundle` where they do not fit.
    public func geometries() throws -> [Geometry] {
        try Geometry.read(root + "/" + SigeBundle.geometry, for: manifest)
    }

    /// Versions first: a newer schema may differ anywhere.
    private static func parse(_ root: String, _ json: JSON) throws -> Manifest {
        let who = "the manifest of bundle \(named(root))"
        guard case .object(let entries) = json else {
            throw SigeError(.bundle, "\(who) is not a JSON object; export the bundle anew.")
        }
        for (key, known) in [("schema_version", Manifest.schemaVersion), ("op_set_version", Manifest.opSetVersion)] {
            guard case .integer(let version)? = entries[key] else {
                throw SigeError(.bundle, "\(who) has no \(key); export the bundle anew.")
            }
            let has = "bundle \(named(root)) has \(key) \(version), this sige_deploy reads"
            if version > known { throw SigeError(.bundle, "\(has) up to \(known); upgrade sige_deploy.") }
            if version < known { throw SigeError(.bundle, "\(has) \(known); export the bundle anew.") }
        }
        do {
            return try Manifest(json)
        } catch let error as Invalid {
            let place = error.place.isEmpty ? "" : " at \(error.place)"
            throw SigeError(.bundle, "\(who) is not valid\(place): \(error.what); export the bundle anew.")
        }
    }
}

/// The JSON value of a file of a bundle; throws kind `bundle`. limit: the most bytes that it may have.
func readJSON(_ path: String, limit: Int) throws -> JSON {
    let text: [UInt8]
    do {
        let status = try FileStatus(path, following: false)
        if !status.regular || status.bytes > limit {
            throw SigeError(.bundle, "\(named(path)) is not a manifest; export the bundle anew.")
        }
        text = try contents(path)
    } catch let error as SystemError {
        throw SigeError(
            .bundle,
            "cannot read \(named(path)) (\(error.what)); expected the folder that sige_deploy.export wrote.")
    }
    do {
        return try JSON(parsing: text)
    } catch let error as JSON.Mistake {
        throw SigeError(
            .bundle, "\(named(path)) is truncated or not JSON (\(error.what)); copy or export the bundle anew.")
    }
}
