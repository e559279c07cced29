import SIGECore

/// How a call of a session ran.
public struct Report: Sendable {
    /// `record`, `sparse`, `dense` or `reuse`.
    public let path: Path
    /// Share of the dense multiply-adds that the edit touches, 0 to 1.
    public let activeFraction: Double
    /// Active pixels by level id.
    public let rows: [String: Int]
    /// Milliseconds of the call: of "load" (models, once), "check", "index", "run" and "write".
    public let stages: [String: Double]
    /// Bytes that the recorded arrays take.
    public let cacheBytes: Int
    /// Which edit model ran; nil: none.
    public let bucket: Int?
    /// How often layers ran on the GPU in this call, by `encode`.
    public let encoded: Int
    /// How often layers ran on the CPU in this call, by `evaluate`.
    public let evaluated: Int

    /// Wall time of the call.
    public var milliseconds: Double { stages.values.reduce(0, +) }
}

/// Where a long call is: `done` of `total` steps, and what it does now.
public struct Progress: Sendable {
    public let what: String
    public let done: Int
    public let total: Int
}

/// Is told where a call is, on any thread.
public typealias ProgressHandler = @Sendable (Progress) -> Void

/// Milliseconds between laps, by name.
struct Stopwatch {
    private(set) var stages: [String: Double] = [:]
    private var last = ContinuousClock.now

    mutating func lap(_ name: String) {
        let now = ContinuousClock.now
        let took = (now - last).components
        stages[name, default: 0] += Double(took.seconds) * 1e3 + Double(took.attoseconds) / 1e15
        last = now
    }
}
