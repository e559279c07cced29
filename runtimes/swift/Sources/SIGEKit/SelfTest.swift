import CoreML
import Foundation
import SIGECore

/// Runs a bundle on this device against results of Python, says whether the layers ran on the GPU, and times edits.
///
/// What no other machine can show: that Core ML calls `encode`, the bytes of weights, the order of slices, and speed.
public struct SelfTest: Sendable {
    /// Largest difference from Python's results that is accepted, by the largest expected value or 1: both are of halves,
    /// and a network of many layers adds their rounding up.
    public static let tolerance: Float = 0.03

    /// What a self-test found.
    public struct Outcome: Sendable {
        /// Whether all results are within the tolerance.
        public let passed: Bool
        /// Whether layers ran on the GPU, by `encode`.
        public let encoded: Bool
        /// Milliseconds of the dense network and of the edit, each the median of several.
        public let dense: Double
        public let sparse: Double
    }

    private let bundle: URL
    private let golden: Safetensors

    /// golden: the file of inputs and results that the package holds, `selftest.safetensors`.
    public init(bundle: URL, golden: URL) throws {
        self.bundle = bundle
        self.golden = try Safetensors(at: golden.path)
    }

    /// Runs it. repeats: of each timed call. log: is given each line of what was found. Throws what ``Session`` throws.
    public func run(repeats: Int = 5, log: @escaping @Sendable (String) -> Void) async throws -> Outcome {
        let session = try await Session.open(bundle) { log("\($0.what) \($0.done)/\($0.total)") }
        var passed = true
        let mask = try golden.tensor("mask")
        let edited = try Mask(height: mask.shape[0], width: mask.shape[1], pixels: mask.bytes)
        let (before, after) = (try part("recorded.input."), try part("edited.input."))
        let recorded = try await session.record(before)
        passed = compare("record", recorded, try part("recorded.output."), log) && passed
        let made = try await session.edit(after, mask: edited)
        passed = compare("edit", made, try part("edited.output."), log) && passed
        let report = try await session.report()
        log("edit: \(report.path.rawValue), \(percent(report.activeFraction)) of the work, model \(report.bucket ?? -1)")
        log("layers: \(report.encoded) on the GPU by encode, \(report.evaluated) on the CPU by evaluate")
        log(report.encoded > 0 ? "encode ran" : "encode did not run")
        try await session.commit()
        let back = try await session.edit(before, mask: edited)
        passed = compare("edit back", back, try part("back.output."), log) && passed
        let dense = try await median(repeats) { _ = try await session.dense(after) }
        _ = try await session.record(before)
        let sparse = try await median(repeats) { _ = try await session.edit(after, mask: edited) }
        let share = percent(Double(edited.count) / Double(edited.height * edited.width))
        log("dense \(rounded(dense)) ms, edit of \(share) of the pixels \(rounded(sparse)) ms, \(rounded(dense / sparse)) x")
        log(passed ? "passed" : "failed")
        await session.close()
        return Outcome(passed: passed, encoded: report.encoded > 0, dense: dense, sparse: sparse)
    }

    /// The tensors of the golden file whose names start so, by the rest of their names.
    private func part(_ prefix: String) throws -> Tensors {
        var tensors: Tensors = [:]
        for name in golden.names where name.hasPrefix(prefix) {
            tensors[String(name.dropFirst(prefix.count))] = try golden.tensor(name)
        }
        return tensors
    }

    private func compare(_ what: String, _ found: Tensors, _ wanted: Tensors, _ log: (String) -> Void) -> Bool {
        var good = true
        for name in wanted.keys.sorted() {
            let (want, got) = (wanted[name]!.floats(), found[name]?.floats() ?? [])
            let largest = want.reduce(1) { max($0, abs($1)) }
            // NaN compares false with everything: then the worst difference is infinite.
            let worst = want.count != got.count ? .infinity
                : zip(want, got).reduce(Float(0)) { worst, pair in
                    let difference = abs(pair.0 - pair.1)
                    return difference.isNaN ? .infinity : max(worst, difference)
                }
            let fits = worst <= SelfTest.tolerance * largest
            good = good && fits
            log("\(what) '\(name)': largest difference \(worst), accepted \(SelfTest.tolerance * largest): "
                + (fits ? "ok" : "WRONG"))
        }
        return good
    }

    private func median(_ repeats: Int, _ call: () async throws -> Void) async throws -> Double {
        var took: [Double] = []
        try await call()  // models load in the first
        for _ in 0..<max(repeats, 1) {
            var watch = Stopwatch()
            try await call()
            watch.lap("call")
            took.append(watch.stages["call"]!)
        }
        return took.sorted()[took.count / 2]
    }
}

private func rounded(_ value: Double) -> String { String(format: "%.1f", value) }
private func percent(_ share: Double) -> String { String(format: "%.1f %%", 100 * share) }
