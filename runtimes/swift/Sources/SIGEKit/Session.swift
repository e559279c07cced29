import CoreML
import Foundation
import SIGECore
import SIGELayers

/// A bundle on Core ML, with one recorded image: record it once, then edit it at a cost in proportion to what changed.
///
/// ```swift
/// let session = try await Session.open(url)
/// let picture = try await session.record(["image": before])["picture"]
/// let edited = try await session.edit(["image": after])["picture"]
/// try await session.commit()  // later edits start from this one
/// ```
///
/// Calls run one after the other, in the order in which they were made. A call that throws leaves the session as it was
/// before. All calls throw ``SigeError``, whose kinds and sentences are those of the Python package, and CancellationError
/// where the task was cancelled before its turn came.
public actor Session {
    /// The bundle that was opened.
    public nonisolated let bundle: SigeBundle
    private let models: CoreMLFolder
    private let indexer: Indexer
    private let buckets: Buckets
    private let registry: BaseRegistry
    private let units: MLComputeUnits
    private var loaded: [String: Model] = [:]
    private var recorded: Recorded?
    private var pending: Pending?
    private var last: Report?
    private var closed = false
    private var turn: Task<Void, Never>?

    private var manifest: Manifest { bundle.manifest }

    /// Inputs and outputs of a record, and those of its arrays that the edit models take as tensors.
    struct Recorded: Sendable {
        var inputs: Tensors
        var outputs: Tensors
        var taken: Tensors
    }

    /// The last edit, until it is committed or replaced.
    enum Pending: Sendable {
        case sparse(SparseEdit)
        case dense(Tensors)
        case reuse
    }

    /// Opens the folder that `sige-deploy package --target swift` or `sige_deploy.export` wrote, and compiles its models,
    /// which takes a while the first time.
    ///
    /// - Parameters:
    ///   - folder: The bundle's folder; manifest, tables and models are checked, SHA-256 included, before anything is loaded.
    ///   - computeUnits: Leave it: the layers run on the GPU or the CPU, not on the Neural Engine.
    ///   - progress: Is told of each step.
    /// - Throws: Kind `bundle` for a damaged or foreign bundle, `runtime` where Core ML cannot run it, `state` where a
    ///   session of it is open.
    public static func open(
        _ folder: URL, computeUnits: MLComputeUnits = .cpuAndGPU, progress: ProgressHandler? = nil
    ) async throws -> Session {
        progress?(Progress(what: "check", done: 0, total: 1))
        let session = try Session(folder, computeUnits)
        try await session.compile(progress)
        return session
    }

    private init(_ folder: URL, _ units: MLComputeUnits) throws {
        bundle = try SigeBundle(at: folder.path)
        let models = try CoreMLFolder(of: bundle)
        guard models.record != nil else {
            throw SigeError(
                .runtime,
                "Core ML cannot record with bundle '\(bundle.root)' (\(models.recordRefused ?? "it has no record model"));"
                    + " export the network without what it names.")
        }
        let levels = bundle.manifest.levels
        self.models = models
        self.units = units
        indexer = Indexer(bundle.manifest, try bundle.geometries())
        buckets = Buckets(models.buckets.map { rows in levels.map { rows[$0.id]! } })
        registry = try BaseRegistry(models.context)
        if let kernels = Foundation.Bundle.module.url(forResource: "metal", withExtension: nil) {
            SIGEKernels.folder = kernels
        }
    }

    /// The network's inputs.
    public nonisolated var inputs: [InputSpec] { bundle.manifest.inputs }

    /// The network's outputs.
    public nonisolated var outputs: [OutputSpec] { bundle.manifest.outputs }

    /// How the last record or edit ran; throws kind `state` before the first.
    public func report() throws -> Report {
        guard let last else { throw SigeError(.state, "nothing has run yet; call record first.") }
        return last
    }

    /// Runs the whole network and keeps what edits need.
    ///
    /// - Parameter inputs: All inputs by name, of the exported shapes and dtypes.
    /// - Returns: The outputs by name.
    /// - Throws: Kinds `input` and `runtime`; then an earlier record stays in force.
    public func record(_ inputs: Tensors, progress: ProgressHandler? = nil) async throws -> Tensors {
        try await alone { try await self.recordNow(inputs, progress) }
    }

    /// Outputs for edited inputs, recomputing only what changed against the record.
    ///
    /// - Parameters:
    ///   - inputs: As for ``record(_:progress:)``; pinned inputs must be as recorded.
    ///   - mask: Which pixels were edited, at the size of the first spatial input; changes outside are ignored. nil: the
    ///     pixels that differ from the recorded inputs.
    /// - Returns: The outputs by name.
    /// - Throws: Kind `state` before a record, `input`, `runtime`; the recorded state never changes.
    public func edit(_ inputs: Tensors, mask: Mask? = nil, progress: ProgressHandler? = nil) async throws -> Tensors {
        try await alone { try await self.editNow(inputs, mask, progress) }
    }

    /// Outputs of the original network, whatever is recorded; an edit before cannot be committed any more.
    public func dense(_ inputs: Tensors) async throws -> Tensors {
        try await alone { try await self.denseNow(inputs) }
    }

    /// Makes the last edit part of the recorded state: later edits start from it. Throws kind `state` where there is none.
    public func commit() async throws {
        try await alone { try await self.commitNow() }
    }

    /// Gives back models and recorded arrays; the session cannot be used afterwards.
    public func close() async {
        await turn?.value
        closed = true
        loaded = [:]
        recorded = nil
        pending = nil
        registry.release()
    }

    /// Runs `body` when all calls before are done.
    private func alone<T: Sendable>(_ body: @escaping @Sendable () async throws -> T) async throws -> T {
        let before = turn
        let task = Task<T, any Error> {
            await before?.value
            try Task.checkCancellation()
            return try await body()
        }
        turn = Task { _ = try? await task.value }
        return try await withTaskCancellationHandler { try await task.value } onCancel: { task.cancel() }
    }

    private func compile(_ progress: ProgressHandler?) async throws {
        let files = [models.record!] + buckets.rows.indices.map(models.edit)
        for (done, file) in files.enumerated() {
            try Task.checkCancellation()
            progress?(Progress(what: "compile", done: done, total: files.count))
            do {
                _ = try await Model.compile(file, key: models.id)
            } catch {
                throw SigeError(
                    .runtime,
                    "Core ML cannot compile '\(file)' (\(error.localizedDescription)); build the Core ML models anew.")
            }
        }
        progress?(Progress(what: "done", done: files.count, total: files.count))
    }

    private func model(_ file: String, _ progress: ProgressHandler?) async throws -> Model {
        if let known = loaded[file] { return known }
        progress?(Progress(what: "load", done: 0, total: 2))
        let made = try await Model(file, key: models.id, units: units)
        loaded[file] = made
        return made
    }

    private func checkOpen() throws {
        if closed { throw SigeError(.state, "the session is closed; open the bundle again.") }
    }

    private func recordNow(_ inputs: Tensors, _ progress: ProgressHandler?) async throws -> Tensors {
        try checkOpen()
        var watch = Stopwatch()
        try manifest.check(inputs)
        watch.lap("check")
        let model = try await model(models.record!, progress)
        watch.lap("load")
        progress?(Progress(what: "record", done: 1, total: 2))
        let made = try await DenseRun(manifest, models).run(model, inputs, keeping: true)
        watch.lap("run")
        registry.put(made.arrays)
        recorded = Recorded(inputs: inputs, outputs: made.outputs, taken: made.taken)
        pending = nil
        watch.lap("write")
        finish(.record, 1, manifest.levels.map(\.pixels), watch, nil, (0, 0))
        progress?(Progress(what: "done", done: 2, total: 2))
        return made.outputs
    }

    private func denseNow(_ inputs: Tensors) async throws -> Tensors {
        try checkOpen()
        var watch = Stopwatch()
        try manifest.check(inputs)
        watch.lap("check")
        let model = try await model(models.record!, nil)
        watch.lap("load")
        let made = try await DenseRun(manifest, models).run(model, inputs, keeping: false)
        watch.lap("run")
        pending = nil
        finish(.dense, 1, manifest.levels.map(\.pixels), watch, nil, (0, 0))
        return made.outputs
    }

    private func editNow(_ inputs: Tensors, _ mask: Mask?, _ progress: ProgressHandler?) async throws -> Tensors {
        try checkOpen()
        let recorded = try base()
        var watch = Stopwatch()
        try manifest.check(inputs)
        if let mask { try manifest.check(mask) }
        try manifest.checkPinned(inputs, recorded: recorded.inputs)
        let masks = indexer.activate(manifest.editedPixels(inputs, recorded: recorded.inputs, mask: mask))
        var counts = masks.map(\.count)
        let free = manifest.inputs.contains { $0.role == .free && inputs[$0.name] != recorded.inputs[$0.name] }
        var (path, fraction) = manifest.judge(counts, freeChanged: mask == nil && free)
        let fit = buckets.fit(counts)
        if path == .sparse && fit == nil { path = .dense }  // no edit model holds so many rows
        watch.lap("check")
        let outputs: Tensors
        var calls = (encoded: 0, evaluated: 0)
        var bucket: Int?
        switch path {
        case .sparse:
            bucket = fit!.bucket
            let model = try await model(models.edit(bucket!), progress)
            watch.lap("load")
            let tables = Set(models.geometries.map(\.id))
            let indices = indexer.tables(masks, rows: buckets.rows[bucket!], only: tables)
            registry.put(indices, for: models)
            watch.lap("index")
            progress?(Progress(what: "edit", done: 1, total: 2))
            let before = registry.calls
            let edit = try await SparseRun(manifest, models, indices).run(model, inputs, recorded)
            calls = (registry.calls.encoded - before.encoded, registry.calls.evaluated - before.evaluated)
            outputs = edit.outputs
            pending = .sparse(edit)
        case .reuse:
            outputs = recorded.outputs
            pending = .reuse
        default:
            let model = try await model(models.record!, progress)
            watch.lap("load")
            progress?(Progress(what: "edit", done: 1, total: 2))
            outputs = try await DenseRun(manifest, models).run(model, inputs, keeping: false).outputs
            pending = .dense(inputs)
            if !counts.contains(where: { $0 > 0 }) { counts = manifest.levels.map(\.pixels) }
        }
        watch.lap("run")
        finish(path, fraction, counts, watch, bucket, calls)
        progress?(Progress(what: "done", done: 2, total: 2))
        return outputs
    }

    private func commitNow() async throws {
        try checkOpen()
        var recorded = try base()
        switch pending {
        case nil: throw SigeError(.state, "there is no edit to commit; call edit first.")
        case .reuse?: break
        case .dense(let inputs)?:
            let made = try await DenseRun(manifest, models).run(
                try await model(models.record!, nil), inputs, keeping: true)
            registry.put(made.arrays)
            self.recorded = Recorded(inputs: inputs, outputs: made.outputs, taken: made.taken)
        case .sparse(let edit)?:
            try edit.write(to: &recorded.inputs, manifest)
            recorded.outputs = edit.outputs
            for cache in manifest.caches where models.arrays.contains(cache.name) {
                guard let name = cache.rows, let rows = edit.rows[name] else { continue }
                registry.write(rows, at: edit.active[cache.level!]!, into: cache)
            }
            self.recorded = recorded
        }
        pending = nil
    }

    private func base() throws -> Recorded {
        guard let recorded else {
            throw SigeError(.state, "there is no recorded image to edit; call record or load first.")
        }
        return recorded
    }

    private func finish(
        _ path: Path, _ fraction: Double, _ counts: [Int], _ watch: Stopwatch, _ bucket: Int?,
        _ calls: (encoded: Int, evaluated: Int)
    ) {
        let rows = Dictionary(uniqueKeysWithValues: zip(manifest.levels.map(\.id), counts))
        last = Report(
            path: path, activeFraction: fraction, rows: rows, stages: watch.stages, cacheBytes: registry.bytes,
            bucket: bucket, encoded: calls.encoded, evaluated: calls.evaluated)
    }
}
