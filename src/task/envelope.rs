//! A request or a response captured as data, with a versioned binary encoding.
//!
//! The encoding is for durable stores. It starts with a version and a kind byte. Counts and lengths are LEB128 numbers.
//! Names and values are raw bytes, so that a header value that is not UTF-8 survives. The body is kept beside the head
//! unchanged, so that neither writing nor reading copies a large one. [`CapturedRequest::from_payload`] and
//! [`CapturedResponse::from_payload`] accept any bytes, and return a value or a [`DecodeError`]; they allocate no more
//! than the length of the input.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::task::{Content, Digesting, RequestDigest, own::GIVEN, target};

/// The newest version that this build reads.
///
/// Version 2 stores the parts of a request's target separately. A request whose target is only a path, and every
/// response, is written in version 1: older builds can still read them, and leave version 2 to newer builds.
pub const VERSION: u8 = 2;

const TARGET_IS_ONE_TEXT: u8 = 1;

const KIND_REQUEST: u8 = b'q';
const KIND_RESPONSE: u8 = b'a';

/// A request as it is replayed: byte for byte as it came in, without the headers that asked for async.
///
/// # Examples
///
/// ```
/// use http::{HeaderMap, HeaderValue, Method, Uri, header::AUTHORIZATION};
/// use tower_respond_async::task::CapturedRequest;
///
/// let uri = Uri::from_static("/orders");
/// let order = CapturedRequest::new(Method::POST, uri, HeaderMap::new(), "17 apples".into());
/// assert_eq!(CapturedRequest::from_payload(order.to_payload())?, order);
///
/// let mut other = order.clone();
/// other.headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer new"));
/// assert_eq!(other.digest(), order.digest(), "it is the same request under another token");
/// other.body = "18 apples".into();
/// assert_ne!(other.digest(), order.digest());
/// # Ok::<_, tower_respond_async::task::DecodeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapturedRequest {
    /// The method.
    pub method: Method,
    /// The target, as the layer saw it.
    pub uri: Uri,
    /// End-to-end headers. Values of one name keep their order.
    pub headers: HeaderMap,
    /// The number of async requests that led to this one: 1 for a request from outside.
    pub depth: u8,
    /// The carried request extensions: names and encoded values.
    pub carried: Vec<(String, Bytes)>,
    /// The whole body.
    pub body: Bytes,
}

impl CapturedRequest {
    /// A request from outside with this head and body, without carried extensions.
    #[must_use]
    pub fn new(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Self {
        Self {
            method,
            uri,
            headers,
            depth: 1,
            carried: Vec::new(),
            body,
        }
    }

    /// The longest chain of async requests that lead to each other. Real chains have two or three; this cuts off a
    /// loop.
    pub(crate) const MAX_DEPTH: u8 = 8;

    /// The name in [`carried`](Self::carried) under which the number of extensions that are not carried is stored.
    pub(crate) const LEFT_OUT: &str = "respond-async.left-out";

    /// How many extensions the request had when it was captured that a replay does not have.
    pub(crate) fn left_out(&self) -> usize {
        let left_out = self.carried.iter().find(|(name, _)| name == Self::LEFT_OUT);
        let number = left_out.and_then(|(_, number)| std::str::from_utf8(number).ok()?.parse().ok());
        number.unwrap_or(0)
    }

    /// About how many bytes the request takes to keep.
    #[must_use]
    pub fn weight(&self) -> usize {
        let carried = self.carried.iter().map(|(name, value)| name.len() + value.len());
        self.body.len() + header_bytes(&self.headers) + target::length(&self.uri) + carried.sum::<usize>()
    }

    /// The size and type of the body.
    pub(crate) fn content(&self) -> Content {
        Content::of(&self.headers, &self.body)
    }

    /// The digest that identifies this request among others under the same name or key: of method, host, path and
    /// query, `Content-Type` and body.
    ///
    /// The host is the authority of the URI, or else `Host`, in lower case and without the default ports of `http` and
    /// `https`. Scheme and protocol are not included, so a request is the same over HTTP/1 and HTTP/2. Credentials are
    /// not included either: tokens and signatures change from one try to the next, and a client that was refused for
    /// that would send its request under a new key, which runs it twice.
    #[must_use]
    pub fn digest(&self) -> RequestDigest {
        Digesting::request(&self.method, &self.uri, &self.headers).finish(&self.body)
    }

    /// The request as a store keeps it, in the oldest version that can express it, at most [`VERSION`].
    #[must_use]
    pub fn to_payload(&self) -> Payload {
        let version = match target::is_one_text(&self.uri) {
            true => TARGET_IS_ONE_TEXT,
            false => VERSION,
        };
        let [scheme, authority, path] = target::parts(&self.uri);
        let one_text = version == TARGET_IS_ONE_TEXT;
        let carried = self.carried.iter();
        let head = text_room(self.method.as_str().len())
            + (if one_text {
                0
            } else {
                text_room(scheme.len()) + text_room(authority.len())
            })
            + text_room(path.len())
            + 1
            + headers_room(&self.headers)
            + number_room(self.carried.len())
            + carried
                .map(|(name, value)| text_room(name.len()) + text_room(value.len()))
                .sum::<usize>();
        let mut out = Writer::new(version, KIND_REQUEST, head, &self.body);
        out.bytes(self.method.as_str().as_bytes());
        if !one_text {
            out.bytes(scheme.as_bytes());
            out.bytes(authority.as_bytes());
        }
        out.bytes(path.as_bytes());
        out.0.extend_from_slice(&[self.depth]);
        out.headers(&self.headers);
        out.number(self.carried.len());
        for (name, value) in &self.carried {
            out.bytes(name.as_bytes());
            out.bytes(value);
        }
        Payload::of(out, &self.body)
    }

    /// Reads what [`to_payload`](Self::to_payload) wrote, by this build or an older one.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Newer`] for a later version: leave the request to a newer build. [`DecodeError::Malformed`] for
    /// anything else that is wrong: set it aside.
    pub fn from_payload(payload: Payload) -> Result<Self, DecodeError> {
        let (head, body) = payload.into_parts();
        let (version, mut input) = Reader::new(head, KIND_REQUEST)?;
        let method = Method::from_bytes(&input.bytes()?).map_err(|_| MALFORMED_METHOD)?;
        let uri = match version {
            // Older builds wrote every target as one text.
            TARGET_IS_ONE_TEXT => Uri::from_maybe_shared(input.bytes()?).ok(),
            _ => target::from_parts([&input.bytes()?, &input.bytes()?, &input.bytes()?]),
        };
        let uri = uri.ok_or(DecodeError::Malformed("uri"))?;
        let depth = input.byte()?;
        let headers = input.headers(GIVEN)?;
        let mut carried = Vec::new();
        for _ in 0..input.number()? {
            let name = String::from_utf8(input.bytes()?.into()).map_err(|_| DecodeError::Malformed("carried name"))?;
            carried.push((name, input.bytes()?));
        }
        input.end()?;
        Ok(Self {
            method,
            uri,
            headers,
            depth,
            carried,
            body,
        })
    }
}

/// The response of a handler, as it is stored and handed out.
///
/// # Examples
///
/// ```
/// use http::{HeaderMap, StatusCode};
/// use tower_respond_async::task::CapturedResponse;
///
/// let response = CapturedResponse::new(StatusCode::OK, HeaderMap::new(), "sent".into());
/// let payload = response.to_payload();
/// assert_eq!(payload.body(), b"sent");
/// assert_eq!(CapturedResponse::from_payload(payload)?, response);
/// # Ok::<_, tower_respond_async::task::DecodeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapturedResponse {
    /// The status.
    pub status: StatusCode,
    /// End-to-end headers. Values of one name keep their order.
    pub headers: HeaderMap,
    /// Whether the body was cut, at the result limit or because it broke off.
    pub truncated: bool,
    /// The body, or its beginning.
    pub body: Bytes,
}

impl From<http::Request<Bytes>> for CapturedRequest {
    /// A request from outside, without carried extensions.
    fn from(request: http::Request<Bytes>) -> Self {
        let (head, body) = request.into_parts();
        Self::new(head.method, head.uri, head.headers, body)
    }
}

impl CapturedResponse {
    /// A response that was not cut.
    #[must_use]
    pub fn new(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self {
            status,
            headers,
            truncated: false,
            body,
        }
    }

    /// About how many bytes the response takes to keep.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.body.len() + header_bytes(&self.headers)
    }

    /// The size and type of the body.
    pub(crate) fn content(&self) -> Content {
        Content::of(&self.headers, &self.body)
    }

    /// The response as a store keeps it, in version 1.
    #[must_use]
    pub fn to_payload(&self) -> Payload {
        let mut out = Writer::new(1, KIND_RESPONSE, 3 + headers_room(&self.headers), &self.body);
        out.0.extend_from_slice(&self.status.as_u16().to_be_bytes());
        out.0.extend_from_slice(&[u8::from(self.truncated)]);
        out.headers(&self.headers);
        Payload::of(out, &self.body)
    }

    /// Reads what [`to_payload`](Self::to_payload) wrote, by this build or an older one.
    ///
    /// # Errors
    ///
    /// As for [`CapturedRequest::from_payload`].
    pub fn from_payload(payload: Payload) -> Result<Self, DecodeError> {
        let (head, body) = payload.into_parts();
        let (_, mut input) = Reader::new(head, KIND_RESPONSE)?;
        let status = u16::from_be_bytes([input.byte()?, input.byte()?]);
        let status = StatusCode::from_u16(status).map_err(|_| DecodeError::Malformed("status"))?;
        let truncated = match input.byte()? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Malformed("truncated flag")),
        };
        let headers = input.headers(0)?;
        input.end()?;
        Ok(Self {
            status,
            headers,
            truncated,
            body,
        })
    }
}

/// A request or a response as a store keeps it: a head and a body, both bytes that the store does not read.
///
/// # Examples
///
/// ```
/// use tower_respond_async::store::Payload;
///
/// let payload = Payload::new("head".into(), "body".into());
/// let bytes = payload.encode(); // for a store that keeps both as one value
/// let read = Payload::decode(bytes.into())?;
/// assert_eq!((read.head(), read.body()), (payload.head(), payload.body()));
/// # Ok::<_, tower_respond_async::task::DecodeError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// The head, followed by the body unless that is in `apart`.
    whole: Bytes,
    head: usize,
    apart: Option<Bytes>,
}

impl Payload {
    /// Bodies of up to this size are copied behind their head. A body comes from a server as a part of a buffer of
    /// several KiB, and would keep the whole buffer alive.
    const COPIED: usize = 4096;

    /// A payload of these parts.
    #[must_use]
    pub const fn new(head: Bytes, body: Bytes) -> Self {
        Self {
            head: head.len(),
            whole: head,
            apart: Some(body),
        }
    }

    /// Everything but the body.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.whole[..self.head]
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match &self.apart {
            Some(body) => body,
            None => &self.whole[self.head..],
        }
    }

    /// Head and body, without a copy.
    #[must_use]
    pub fn into_parts(self) -> (Bytes, Bytes) {
        let mut head = self.whole;
        let behind = head.split_off(self.head);
        (head, self.apart.unwrap_or(behind))
    }

    /// Head and body in one piece, for a store that keeps them so.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&(self.head as u32).to_be_bytes(), self.head(), self.body()].concat()
    }

    /// Reads what [`encode`](Self::encode) wrote, without a copy.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Malformed`] if the bytes are too short for their head.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        let head = bytes
            .split_first_chunk()
            .map(|(head, _)| u32::from_be_bytes(*head) as usize);
        let head = head.filter(|head| *head <= bytes.len() - 4).ok_or(TOO_SHORT)?;
        Ok(Self {
            whole: bytes.split_off(4),
            head,
            apart: None,
        })
    }

    /// How many bytes the payload takes to keep.
    #[must_use]
    pub fn len(&self) -> usize {
        self.whole.len() + self.apart.as_ref().map_or(0, Bytes::len)
    }

    /// Whether head and body are empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn of(mut out: Writer, body: &Bytes) -> Self {
        let head = out.0.len();
        let apart = match body.len() > Self::COPIED {
            true => Some(body.clone()),
            false => {
                out.0.extend_from_slice(body);
                None
            }
        };
        // The capacity was exact, so that making it a boxed slice does not allocate again.
        debug_assert_eq!(out.0.len(), out.0.capacity());
        let whole = out.0.into_boxed_slice().into();
        Self { whole, head, apart }
    }
}

/// Compares the parts, however they are held.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.head() == other.head() && self.body() == other.body()
    }
}

impl Eq for Payload {}

/// Why stored bytes cannot be read as a request, a response or a record.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{TaskRecord, task::DecodeError};
///
/// let newer = TaskRecord::FORMAT + 1;
/// assert_eq!(TaskRecord::decode(&[newer]), Err(DecodeError::Newer(newer)));
/// assert!(matches!(TaskRecord::decode(b""), Err(DecodeError::Malformed(_))));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A later version of the crate wrote them, and this build cannot read them.
    #[error("the record has version {0}, newer than this build reads")]
    Newer(u8),
    /// They are damaged, or are something else.
    #[error("the record is malformed: {0}")]
    Malformed(&'static str),
}

const MALFORMED_METHOD: DecodeError = DecodeError::Malformed("method");
const TOO_SHORT: DecodeError = DecodeError::Malformed("it ends too early");

fn header_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

/// The bytes that [`Writer::number`] takes.
const fn number_room(mut number: usize) -> usize {
    let mut room = 1;
    while number >= 0x80 {
        room += 1;
        number >>= 7;
    }
    room
}

/// The bytes that [`Writer::bytes`] takes for a text of this length.
const fn text_room(bytes: usize) -> usize {
    number_room(bytes) + bytes
}

/// The bytes that [`Writer::headers`] takes.
fn headers_room(headers: &HeaderMap) -> usize {
    let room = headers.iter();
    let room = room.map(|(name, value)| text_room(name.as_str().len()) + text_room(value.len()) + 1);
    number_room(headers.len()) + room.sum::<usize>()
}

struct Writer(Vec<u8>);

impl Writer {
    /// Begins a head of `head` bytes after version and kind, with room for a body that is to follow it.
    fn new(version: u8, kind: u8, head: usize, body: &Bytes) -> Self {
        let body = if body.len() > Payload::COPIED { 0 } else { body.len() };
        let mut out = Vec::with_capacity(2 + head + body);
        out.extend_from_slice(&[version, kind]);
        Self(out)
    }

    fn number(&mut self, mut number: usize) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn headers(&mut self, headers: &HeaderMap) {
        self.number(headers.len());
        for (name, value) in headers {
            self.bytes(name.as_str().as_bytes());
            self.0.push(u8::from(value.is_sensitive()));
            self.bytes(value.as_bytes());
        }
    }
}

struct Reader(Bytes);

impl Reader {
    fn new(bytes: Bytes, kind: u8) -> Result<(u8, Self), DecodeError> {
        let mut input = Self(bytes);
        let version = input.byte()?;
        if version > VERSION {
            return Err(DecodeError::Newer(version));
        }
        if version == 0 {
            return Err(DecodeError::Malformed("version 0"));
        }
        if input.byte()? != kind {
            return Err(DecodeError::Malformed("it is of another kind"));
        }
        Ok((version, input))
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let first = *self.0.first().ok_or(TOO_SHORT)?;
        let _ = self.0.split_to(1);
        Ok(first)
    }

    fn number(&mut self) -> Result<usize, DecodeError> {
        let mut number = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(number).map_err(|_| DecodeError::Malformed("a length"));
            }
        }
        Err(DecodeError::Malformed("a length"))
    }

    fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.number()?;
        if length > self.0.len() {
            return Err(TOO_SHORT);
        }
        Ok(self.0.split_to(length))
    }

    /// Reads headers into a map with room for `more`.
    fn headers(&mut self, more: usize) -> Result<HeaderMap, DecodeError> {
        let count = self.number()?;
        // The count is not verified yet, so a large map grows as it is read.
        let mut headers = HeaderMap::with_capacity(count.min(16) + more);
        for _ in 0..count {
            let name = HeaderName::from_bytes(&self.bytes()?).map_err(|_| DecodeError::Malformed("header name"))?;
            let sensitive = self.byte()? != 0;
            let mut value =
                HeaderValue::from_maybe_shared(self.bytes()?).map_err(|_| DecodeError::Malformed("header value"))?;
            value.set_sensitive(sensitive);
            headers
                .try_append(name, value)
                .map_err(|_| DecodeError::Malformed("too many headers"))?;
        }
        Ok(headers)
    }

    fn end(self) -> Result<(), DecodeError> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(DecodeError::Malformed("it goes on after its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CapturedRequest {
        let mut headers = HeaderMap::new();
        headers.append("x-raw", HeaderValue::from_bytes(&[0xff, 0x80, b'a']).unwrap());
        headers.append("x-two", HeaderValue::from_static("first"));
        headers.append("x-two", HeaderValue::from_static("second"));
        CapturedRequest {
            depth: 3,
            carried: vec![("user".into(), Bytes::from_static(b"{}"))],
            ..CapturedRequest::new(
                Method::PUT,
                Uri::from_static("/a%20b?x=1&y"),
                headers,
                Bytes::from(vec![0, 255, 10, 13]),
            )
        }
    }

    fn read(head: Bytes) -> Result<CapturedRequest, DecodeError> {
        CapturedRequest::from_payload(Payload::new(head, Bytes::new()))
    }

    #[test]
    fn what_was_written_is_read_back() {
        let request = request();
        assert_eq!(CapturedRequest::from_payload(request.to_payload()), Ok(request.clone()));
        let response = CapturedResponse {
            truncated: true,
            ..CapturedResponse::new(StatusCode::IM_A_TEAPOT, request.headers, Bytes::from(vec![1; 300]))
        };
        assert_eq!(CapturedResponse::from_payload(response.to_payload()), Ok(response));
    }

    #[test]
    fn payloads_with_the_same_parts_are_equal() {
        let whole = request().to_payload();
        let (head, body) = whole.clone().into_parts();
        assert_eq!(Payload::new(head.clone(), body), whole);
        assert_ne!(Payload::new(head, Bytes::new()), whole);
    }

    #[test]
    fn the_written_form_of_version_1_does_not_change() {
        let response = CapturedResponse::new(
            StatusCode::OK,
            HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("a/b"))]),
            Bytes::from_static(b"hi"),
        );
        let payload = response.to_payload();
        assert_eq!(payload.head(), b"\x01a\x00\xc8\x00\x01\x0ccontent-type\x00\x03a/b");
        assert_eq!(payload.body(), b"hi");
    }

    /// The files of users have these bytes. To change them, add a version, and keep reading the present ones.
    #[test]
    fn the_written_form_of_a_request_does_not_change() {
        let request = |uri: Uri| CapturedRequest::new(Method::GET, uri, HeaderMap::new(), Bytes::from_static(b"hi"));
        let plain = request(Uri::from_static("/a?b"));
        let payload = plain.to_payload();
        assert_eq!(payload.head(), b"\x01q\x03GET\x04/a?b\x01\x00\x00");
        assert_eq!(payload.body(), b"hi");
        let absolute = request(Uri::from_static("https://h:1/a?b"));
        assert_eq!(
            absolute.to_payload().head(),
            b"\x02q\x03GET\x05https\x03h:1\x04/a?b\x01\x00\x00"
        );
        let older = Payload::new(
            Bytes::from_static(b"\x01q\x03GET\x0fhttps://h:1/a?b\x01\x00\x00"),
            Bytes::from_static(b"hi"),
        );
        assert_eq!(CapturedRequest::from_payload(older), Ok(absolute));
    }

    #[test]
    fn an_asterisk_of_a_host_is_not_another_host() {
        let asterisk = Uri::builder().scheme("https").authority("h").path_and_query("*");
        let request = CapturedRequest::new(
            Method::OPTIONS,
            asterisk.build().unwrap(),
            HeaderMap::new(),
            Bytes::new(),
        );
        assert_eq!(CapturedRequest::from_payload(request.to_payload()), Ok(request));
    }

    #[test]
    fn a_newer_version_differs_from_damage() {
        let mut bytes = request().to_payload().head().to_vec();
        bytes[0] = VERSION + 1;
        assert_eq!(read(bytes.into()), Err(DecodeError::Newer(VERSION + 1)));
    }

    #[test]
    fn every_cut_and_every_flip_is_survived() {
        let (bytes, _) = request().to_payload().into_parts();
        for end in 0..bytes.len() {
            assert!(read(bytes.slice(..end)).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << bit;
                let _ = read(flipped.into());
            }
        }
    }
}
