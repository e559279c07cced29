// As much of SwiftUI, Combine and Core Graphics as the example uses, to type-check it.
@_exported import Foundation

@preconcurrency @MainActor public protocol View {
    associatedtype Body: View
    @ViewBuilder @MainActor var body: Body { get }
}
extension Never: View { public var body: Never { fatalError() } }
public struct Plain: View { public var body: Never { fatalError() } }

@resultBuilder public struct ViewBuilder {
    public static func buildBlock() -> Plain { Plain() }
    public static func buildBlock<A: View>(_ a: A) -> A { a }
    public static func buildBlock<A: View, B: View>(_ a: A, _ b: B) -> Plain { Plain() }
    public static func buildBlock<A: View, B: View, C: View>(_ a: A, _ b: B, _ c: C) -> Plain { Plain() }
    public static func buildEither<A: View>(first: A) -> Plain { Plain() }
    public static func buildEither<A: View>(second: A) -> Plain { Plain() }
    public static func buildOptional<A: View>(_ a: A?) -> Plain { Plain() }
}

public struct VStack<Content: View>: View {
    public init(@ViewBuilder content: () -> Content) {}
    public var body: Never { fatalError() }
}
public struct HStack<Content: View>: View {
    public init(@ViewBuilder content: () -> Content) {}
    public var body: Never { fatalError() }
}
public struct GeometryProxy { public var size: CGSize }
public struct GeometryReader<Content: View>: View {
    public init(@ViewBuilder content: @escaping (GeometryProxy) -> Content) {}
    public var body: Never { fatalError() }
}
public struct Text: View {
    public init<S: StringProtocol>(_ content: S) {}
    public var body: Never { fatalError() }
}
public struct ProgressView: View {
    public init() {}
    public var body: Never { fatalError() }
}
public struct Stepper: View {
    public init<V: Strideable>(_ title: String, value: Binding<V>, in bounds: ClosedRange<V>) {}
    public var body: Never { fatalError() }
}
public struct Slider: View {
    public init<V: BinaryFloatingPoint>(value: Binding<V>, in bounds: ClosedRange<V>) {}
    public var body: Never { fatalError() }
}
public struct Image: View {
    public init(decorative cgImage: CGImage, scale: CGFloat) {}
    public func resizable() -> Image { self }
    public var body: Never { fatalError() }
}
public enum ContentMode { case fit, fill }

extension View {
    public func padding() -> Plain { Plain() }
    public func task(_ action: @escaping @Sendable @MainActor () async -> Void) -> Plain { Plain() }
    public func gesture<G: Gesture>(_ gesture: G) -> Plain { Plain() }
    public func aspectRatio(_ ratio: CGFloat?, contentMode: ContentMode) -> Plain { Plain() }
}

@preconcurrency @MainActor public protocol Gesture {}
public struct DragGesture: Gesture {
    public struct Value { public var location: CGPoint }
    public init(minimumDistance: CGFloat) {}
    public func onChanged(_ action: @escaping (Value) -> Void) -> DragGesture { self }
    public func onEnded(_ action: @escaping (Value) -> Void) -> DragGesture { self }
}

public protocol ObservableObject: AnyObject {}
@propertyWrapper public struct Published<Value> {
    public var wrappedValue: Value
    public init(wrappedValue: Value) { self.wrappedValue = wrappedValue }
}
@propertyWrapper public struct Binding<Value> {
    public var wrappedValue: Value
    public init(wrappedValue: Value) { self.wrappedValue = wrappedValue }
}
@MainActor @propertyWrapper public struct StateObject<ObjectType: ObservableObject> {
    @dynamicMemberLookup @MainActor public struct Wrapper {
        public subscript<T>(dynamicMember path: ReferenceWritableKeyPath<ObjectType, T>) -> Binding<T> { fatalError() }
    }
    public let wrappedValue: ObjectType
    public init(wrappedValue: @autoclosure @escaping () -> ObjectType) { self.wrappedValue = wrappedValue() }
    public var projectedValue: Wrapper { Wrapper() }
}

@preconcurrency @MainActor public protocol Scene {}
public struct WindowGroup<Content: View>: Scene { public init(@ViewBuilder content: () -> Content) {} }
@preconcurrency @MainActor public protocol App {
    associatedtype Body: Scene
    var body: Body { get }
    init()
}
extension App { public static func main() {} }

public typealias CFData = Data
public final class CGDataProvider { public init?(data: CFData) {} }
public final class CGColorSpace {}
public func CGColorSpaceCreateDeviceRGB() -> CGColorSpace { CGColorSpace() }
public enum CGImageAlphaInfo: UInt32 { case noneSkipLast = 5 }
public struct CGBitmapInfo: OptionSet {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
}
public enum CGColorRenderingIntent { case defaultIntent }
public final class CGImage {
    public let width = 0, height = 0
    public init?(
        width: Int, height: Int, bitsPerComponent: Int, bitsPerPixel: Int, bytesPerRow: Int, space: CGColorSpace,
        bitmapInfo: CGBitmapInfo, provider: CGDataProvider, decode: UnsafePointer<CGFloat>?, shouldInterpolate: Bool,
        intent: CGColorRenderingIntent
    ) {}
}
