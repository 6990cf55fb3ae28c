//! Makes text from elsewhere safe to show in a terminal, a log file or a page.

use std::borrow::Cow;

/// `text` without the characters that a terminal or a page acts on.
///
/// Escape sequences are removed. Every other control character, and every character that changes the direction of
/// writing, is replaced by a control picture or by U+FFFD. Line ends and tabs stay.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    match text.chars().all(is_harmless) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(disarm(text)),
    }
}

/// As [`printable`], on one line.
pub(crate) fn printable_line(text: &str) -> Cow<'_, str> {
    match printable(text) {
        one if !one.contains(['\n', '\t']) => one,
        several => Cow::Owned(several.replace('\n', "\u{240a}").replace('\t', " ")),
    }
}

const ESCAPE: char = '\u{1b}';

const fn is_harmless(c: char) -> bool {
    matches!(c, '\n' | '\t' | ' '..='~' | '\u{a0}'..) && !turns_direction(c)
}

/// Whether `c` changes the order in which text is read, or is a line end that most programs do not treat as one.
const fn turns_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn disarm(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            ESCAPE => {
                let after = rest.clone();
                match skip_sequence(&mut rest) {
                    true => {}
                    // Not a sequence: what follows is text.
                    false => {
                        rest = after;
                        out.push(picture(c));
                    }
                }
            }
            // A line end of some systems. A lone `\r` is shown: it would let the line be written over.
            '\r' if rest.clone().next() == Some('\n') => {}
            _ if is_harmless(c) => out.push(c),
            _ => out.push(picture(c)),
        }
    }
    out
}

/// Skips the rest of an escape sequence, and returns whether it was complete: one for colours and cursors (`ESC [ ...
/// letter`), or one for titles and links (`ESC ] ... BEL` or `ESC ] ... ESC \`).
fn skip_sequence(rest: &mut std::str::Chars<'_>) -> bool {
    match rest.next() {
        Some('[') => loop {
            match rest.next() {
                Some(' '..='?') => {}
                Some('@'..='~') => return true,
                _ => return false,
            }
        },
        Some(']') => loop {
            match rest.next() {
                Some('\u{7}') => return true,
                Some(ESCAPE) => return rest.next() == Some('\\'),
                Some(_) => {}
                None => return false,
            }
        },
        _ => false,
    }
}

/// The Unicode control picture of `c`, or the replacement character.
fn picture(c: char) -> char {
    match u32::from(c) {
        control @ 0..=0x1f => char::from_u32(0x2400 + control).unwrap_or(char::REPLACEMENT_CHARACTER),
        0x7f => '\u{2421}',
        _ => char::REPLACEMENT_CHARACTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_not_even_copied() {
        for text in ["", "plain", "two\nlines\tand a tab", "hü \u{1f600} \u{a0}"] {
            assert!(
                matches!(printable(text), Cow::Borrowed(same) if same == text),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_acts_on_a_terminal_is_taken_out_or_shown() {
        for (text, shown) in [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[2J\u{1b}[1;1Hgone", "gone"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}]8;;http://evil/\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}c", "\u{241b}c"),
            ("\u{1b}[31", "\u{241b}[31"),
            ("\u{1b}]never ended", "\u{241b}]never ended"),
            ("\u{1b}[\u{1b}[31mx", "\u{241b}[x"),
            ("a\r\nb\rc", "a\nb\u{240d}c"),
            ("\0\u{8}\u{7f}\u{9b}31m", "\u{2400}\u{2408}\u{2421}\u{fffd}31m"),
            ("safe\u{202e}txt.exe", "safe\u{fffd}txt.exe"),
            ("one\u{2028}two", "one\u{fffd}two"),
        ] {
            assert_eq!(printable(text), shown, "{text:?}");
            assert_eq!(printable(&printable(text)), shown, "{text:?} twice");
        }
        assert_eq!(printable_line("one\nINFO forged\tx"), "one\u{240a}INFO forged x");
    }
}
