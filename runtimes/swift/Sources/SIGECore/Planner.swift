/// How a call ran.
public enum Path: String, Sendable {
    /// The whole network, and what edits need was kept.
    case record
    /// Active rows only.
    case sparse
    /// The whole network: the planner judged the edit too large.
    case dense
    /// Nothing changed: the recorded outputs.
    case reuse
}

extension Manifest {
    /// Which way an edit goes, and the share of the dense multiply-adds that it touches. counts: active pixels of each
    /// level. freeChanged: whether a free input differs from the record, as far as no mask was given.
    public func judge(_ counts: [Int], freeChanged: Bool) -> (path: Path, fraction: Double) {
        if counts.contains(where: { $0 > 0 }) {
            let fraction = activeFraction(counts)
            return (fraction > gpuDenseAbove ? .dense : .sparse, fraction)
        }
        return freeChanged ? (.dense, 1) : (.reuse, 0)
    }
}
