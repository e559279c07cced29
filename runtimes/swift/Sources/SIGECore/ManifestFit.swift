extension Manifest {
    /// Throws `Invalid` where the parts do not fit together.
    func checkFit() throws {
        try checkOnce("input", inputs.map(\.name))
        try checkOnce("output", outputs.map(\.name))
        try checkOnce("level", levels.map(\.id))
        try checkOnce("geometry", geometries.map(\.id))
        try checkOnce("cache", caches.map(\.name))
        for g in geometries {
            try checkListed("geometry \(named(g.id))", g.source)
            try checkListed("geometry \(named(g.id))", g.target)
        }
        for i in inputs { try checkListed("input \(named(i.name))", i.level) }
        for o in outputs { try checkListed("output \(named(o.name))", o.level) }
        for c in caches { try checkListed("cache \(named(c.name))", c.level) }
        for level in levels {
            if let id = level.geometry, !geometries.contains(where: { $0.id == id }) {
                throw whole("level \(named(level.id)) names geometry \(named(id)), which is not listed")
            }
            if level.threshold != threshold {
                throw whole("level \(named(level.id)) has another threshold than the policy")
            }
        }
        if spatial.isEmpty { throw whole("no input is spatial") }
        for i in spatial {
            let level = level(i.level!)
            if i.size(.y) != level.height || i.size(.x) != level.width {
                throw whole(
                    "input \(named(i.name)) of size (\(i.size(.y)), \(i.size(.x))) does not fit its level "
                        + "(\(level.height), \(level.width))")
            }
        }
        for o in outputs {
            guard let level = o.level.map(level) else { continue }
            if o.size(.y) != level.height || o.size(.x) != level.width {
                throw whole(
                    "layout of output \(named(o.name)) does not fit its level (\(level.height), \(level.width))")
            }
        }
        for c in caches { try checkFit(c) }
    }

    private func checkFit(_ cache: CacheSpec) throws {
        if cache.rows != nil && !cache.base { throw whole("static cache \(named(cache.name)) cannot have rows") }
        if cache.base {
            let pixels = cache.level.map { level($0).pixels }
            if pixels == nil || cache.shape.count != 3 || cache.shape[1] != pixels {
                throw whole("base cache \(named(cache.name)) is not [B, H*W, C] of a level")
            }
        }
        if (cache.rows == nil && cache.rowsChannels != nil) || (cache.rowsChannels == nil && cache.rowsOffset != 0) {
            throw whole("cache \(named(cache.name)) names channels of no rows")
        }
        if let channels = cache.rowsChannels, cache.rowsOffset + cache.shape.last! > channels {
            throw whole("cache \(named(cache.name)) does not fit in \(channels) channels of its rows")
        }
        for id in cache.reads ?? [] {
            let leads = geometries.contains { $0.id == id && $0.source == cache.level }
            if !cache.base || !leads {
                throw whole("cache \(named(cache.name)) cannot be read through geometry \(named(id))")
            }
        }
    }

    private func whole(_ what: String) -> Invalid { Invalid(place: "", what: what) }

    private func checkOnce(_ what: String, _ names: [String]) throws {
        var seen: Set<String> = []
        var twice: [String] = []
        for name in names where !seen.insert(name).inserted { twice.append(name) }
        if let first = twice.min(by: precedes) { throw whole("\(what) \(named(first)) is listed twice") }
    }

    private func checkListed(_ who: String, _ level: String?) throws {
        if let level, !levels.contains(where: { $0.id == level }) {
            throw whole("\(who) names level \(named(level)), which is not listed")
        }
    }
}
