//! The token with which a client asks for the next page of a list.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::{
    task::{Cursor, RequestId, SortOrder},
    time::Timestamp,
};

const VERSION: u8 = 1;

/// Version, order, time, id, and the first bytes of the SHA-256 of these.
///
/// The checksum detects accidents only. A forged token shows nothing that the caller's scope does not show anyway.
const LENGTH: usize = 1 + 1 + 8 + 16 + CHECK;
const CHECK: usize = 4;

/// The place behind the last task of a page, as text for a URL.
pub(crate) fn encode(order: SortOrder, cursor: Cursor) -> String {
    let mut bytes = Vec::with_capacity(LENGTH);
    bytes.extend_from_slice(&[VERSION, order_byte(order)]);
    bytes.extend_from_slice(&cursor.created_at.as_millis().to_be_bytes());
    bytes.extend_from_slice(cursor.id.as_bytes());
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest[..CHECK]);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The place that `token` encodes, if it is valid for a list in this order.
pub(crate) fn decode(token: &str, order: SortOrder) -> Option<Cursor> {
    let bytes: [u8; LENGTH] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
    let (content, check) = bytes.split_at(LENGTH - CHECK);
    let whole = &Sha256::digest(content)[..CHECK] == check;
    if !whole || content[..2] != [VERSION, order_byte(order)] {
        return None;
    }
    let created_at = content[2..10].try_into().ok().map(u64::from_be_bytes)?;
    let id = content[10..].try_into().ok().map(RequestId::from_bytes)?;
    Some(Cursor {
        created_at: Timestamp::from_millis(created_at),
        id,
    })
}

const fn order_byte(order: SortOrder) -> u8 {
    match order {
        SortOrder::Ascending => b'a',
        SortOrder::Descending => b'd',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        let created_at = Timestamp::from_millis(1_700_000_000_000);
        Cursor {
            created_at,
            id: RequestId::from_parts(created_at, [9; 10]),
        }
    }

    #[test]
    fn a_token_leads_back_to_its_place_in_its_order_only() {
        let token = encode(SortOrder::Descending, cursor());
        assert_eq!(decode(&token, SortOrder::Descending), Some(cursor()));
        assert_eq!(decode(&token, SortOrder::Ascending), None);
    }

    #[test]
    fn a_token_that_was_tampered_with_is_none() {
        let token = encode(SortOrder::Ascending, cursor());
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let tampered = String::from_utf8(bytes).unwrap();
            assert_eq!(decode(&tampered, SortOrder::Ascending), None, "at {at}");
        }
        for other in [
            "",
            "A",
            &token[1..],
            &format!("{token}A"),
            &format!("{token}=="),
            "\u{e4}",
            "../..",
        ] {
            assert_eq!(decode(other, SortOrder::Ascending), None, "{other}");
        }
    }
}
