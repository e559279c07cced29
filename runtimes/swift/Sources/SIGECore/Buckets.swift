/// Row counts that edits are padded to: each has an edit model of its own. All levels move together.
public struct Buckets: Sendable {
    /// Rows of each level, by bucket, the least work first.
    public let rows: [[Int]]

    /// rows: of each level of the manifest in its order, by bucket, the least work first.
    public init(_ rows: [[Int]]) { self.rows = rows }

    /// The first bucket that holds this many active pixels of each level, and its rows, 0 for levels without active
    /// pixels; nil where no bucket holds so many.
    public func fit(_ counts: [Int]) -> (bucket: Int, rows: [Int])? {
        guard let bucket = rows.firstIndex(where: { zip($0, counts).allSatisfy { $0 >= $1 } }) else { return nil }
        return (bucket, zip(rows[bucket], counts).map { $1 > 0 ? $0 : 0 })
    }
}
