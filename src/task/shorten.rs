//! Cuts texts to the length that is kept.

use crate::task::record::cut;

/// The first `bytes` of a text that views show, or a few less.
///
/// No character is broken, and no password is left without the mark by which views find it: in
/// `https://user:password@host` they hide the password because of the `@` after it. If the cut could separate the two,
/// the user is left out.
pub(crate) fn shorten(text: &str, bytes: usize) -> &str {
    let head = cut(text, bytes);
    let rest = &text[head.len()..];
    let word = &rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())];
    // An at sign, plain or percent-encoded any number of times.
    let may_be_a_user = word.contains('@') || word.contains("40") && text.contains('%');
    if !may_be_a_user {
        return head;
    }
    let ends_before_a_user = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '&' | '=' | '#');
    let last = head.char_indices().rev().find(|(_, c)| ends_before_a_user(*c));
    &head[..last.map_or(0, |(at, c)| at + c.len_utf8())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_before_a_user() {
        assert_eq!(shorten("häh", 2), "h");
        assert_eq!(shorten("häh", 9), "häh");
        let url = "no answer from https://anna:secret@example.org/a";
        assert_eq!(shorten(url, 30), "no answer from https://");
        assert_eq!(shorten(url, 41), "no answer from https://anna:secret@exampl");
        assert_eq!(shorten("/a?next=https%3A%2F%2Fanna%3As%40h", 30), "/a?next=");
        assert_eq!(shorten("anna:secret@example.org", 6), "");
        assert_eq!(shorten("a word and anna@example.org", 6), "a word");
    }
}
