//! A request or a response captured as data, with a versioned binary encoding.
//!
//! The encoding is what a durable store keeps. It opens with a version and a kind byte; counts and lengths are
//! LEB128 numbers; names and values are raw bytes, so that a header value which is not UTF-8 survives. The body stands
//! beside the head as it is, so that neither writing nor reading copies a large one. [`CapturedRequest::from_payload`] and
//! [`CapturedResponse::from_payload`] take any bytes whatever and answer with a value or a [`DecodeError`]; they allocate no
//! more than the input is long.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::task::{Content, Digesting, RequestDigest, own::GIVEN, target};

/// The newest version that this build reads.
///
/// Version 2 has the parts of a request's target apart. A request whose target is a path alone, and every response, is
/// written in version 1: builds that know no other go on to read them, and leave the others to newer ones.
pub const VERSION: u8 = 2;

const TARGET_IS_ONE_TEXT: u8 = 1;

const KIND_REQUEST: u8 = b'q';
const KIND_RESPONSE: u8 = b'a';

/// A request as it will be replayed: the trigger is stripped, the rest is byte for byte what came in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapturedRequest {
    /// The method.
    pub method: Method,
    /// The target, as the layer saw it.
    pub uri: Uri,
    /// End-to-end headers. Values of one name keep their order.
    pub headers: HeaderMap,
    /// How many async requests led to this one: 1 for a request from outside.
    pub depth: u8,
    /// Request extensions that were asked to be carried, encoded by name.
    pub carried: Vec<(String, Bytes)>,
    /// The whole body.
    pub body: Bytes,
}

impl CapturedRequest {
    /// A request with this head and body, from outside, carrying nothing.
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

    /// The longest chain of async requests that lead to each other. Real ones are two or three; a loop is cut off here.
    pub(crate) const MAX_DEPTH: u8 = 8;

    /// Under which [`carried`](Self::carried) says how many extensions were there that are not carried.
    pub(crate) const LEFT_OUT: &str = "respond-async.left-out";

    /// How many extensions were there when the request was taken in, and are not on a replay.
    pub(crate) fn left_out(&self) -> usize {
        let said = self.carried.iter().find(|(name, _)| name == Self::LEFT_OUT);
        let number = said.and_then(|(_, number)| std::str::from_utf8(number).ok()?.parse().ok());
        number.unwrap_or(0)
    }

    /// About how many bytes it takes to keep.
    #[must_use]
    pub fn weight(&self) -> usize {
        let carried = self.carried.iter().map(|(name, value)| name.len() + value.len());
        self.body.len() + header_bytes(&self.headers) + target::length(&self.uri) + carried.sum::<usize>()
    }

    /// How long the body is, and of what type.
    pub(crate) fn content(&self) -> Content {
        Content::of(&self.headers, &self.body)
    }

    /// What tells this request from another one under the same name or key: method, host, path and query,
    /// `Content-Type` and body.
    ///
    /// The host is the authority of the URI, or else `Host`, in lower case and without the default ports of `http` and
    /// `https`: scheme and protocol are not in it, so that a request is the same over HTTP/1 and HTTP/2. Credentials are
    /// not in it either. Tokens and signatures change from one try to the next, and a client that is refused for that would
    /// send its request under a new key, which runs it twice.
    #[must_use]
    pub fn digest(&self) -> RequestDigest {
        Digesting::request(&self.method, &self.uri, &self.headers).finish(&self.body)
    }

    /// The request as a store keeps it, in the oldest version that can say all of it, at most [`VERSION`].
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
    /// [`DecodeError::Newer`] for a later version: leave the record to a newer build. Anything else wrong is
    /// [`DecodeError::Malformed`]: set it aside.
    pub fn from_payload(payload: Payload) -> Result<Self, DecodeError> {
        let (head, body) = payload.into_parts();
        let (version, mut input) = Reader::new(head, KIND_REQUEST)?;
        let method = Method::from_bytes(&input.bytes()?).map_err(|_| MALFORMED_METHOD)?;
        let uri = match version {
            // Older builds wrote whatever target there was as one text.
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

/// A response as the handler gave it, kept to be handed out verbatim.
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

impl CapturedResponse {
    /// A whole response.
    #[must_use]
    pub fn new(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self {
            status,
            headers,
            truncated: false,
            body,
        }
    }

    /// About how many bytes it takes to keep.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.body.len() + header_bytes(&self.headers)
    }

    /// How long the body is, and of what type.
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

/// A request or a response as a store keeps it: a head and a body, of which it knows nothing but the length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The head, and behind it the body where that is not apart.
    whole: Bytes,
    head: usize,
    apart: Option<Bytes>,
}

impl Payload {
    /// A body of up to so many bytes is copied behind its head. As it comes from a server it is a part of a buffer of
    /// several KiB, which it would keep alive.
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

    /// All but the body.
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

    /// Both in one piece, for a store that keeps them so.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&(self.head as u32).to_be_bytes(), self.head(), self.body()].concat()
    }

    /// Reads what [`encode`](Self::encode) wrote, without a copy.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Malformed`] if it is nothing of the kind.
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

    /// How many bytes it takes to keep.
    #[must_use]
    pub fn len(&self) -> usize {
        self.whole.len() + self.apart.as_ref().map_or(0, Bytes::len)
    }

    /// Whether it has neither head nor body.
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
        // As long as its room, so that it takes no second allocation to hand it on.
        debug_assert_eq!(out.0.len(), out.0.capacity());
        let whole = out.0.into_boxed_slice().into();
        Self { whole, head, apart }
    }
}

/// Why stored bytes are no request or response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a later version of the crate, which this build cannot read.
    #[error("the record has version {0}, newer than this build reads")]
    Newer(u8),
    /// No record at all, or a damaged one.
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

/// What [`Writer::number`] takes.
const fn number_room(mut number: usize) -> usize {
    let mut room = 1;
    while number >= 0x80 {
        room += 1;
        number >>= 7;
    }
    room
}

/// What [`Writer::bytes`] takes for so many.
const fn text_room(bytes: usize) -> usize {
    number_room(bytes) + bytes
}

/// What [`Writer::headers`] takes.
fn headers_room(headers: &HeaderMap) -> usize {
    let room = headers.iter();
    let room = room.map(|(name, value)| text_room(name.as_str().len()) + text_room(value.len()) + 1);
    number_room(headers.len()) + room.sum::<usize>()
}

struct Writer(Vec<u8>);

impl Writer {
    /// Begins a head of so many bytes, these two aside, with room for a body that is to stand behind it.
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

    /// With room for so many more.
    fn headers(&mut self, more: usize) -> Result<HeaderMap, DecodeError> {
        let count = self.number()?;
        // Many are grown as they are read: a count is only a claim until then.
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

    /// What is in the files of users. A change of either needs a new version, and a reader of this one.
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
    fn a_newer_version_is_told_from_damage() {
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
