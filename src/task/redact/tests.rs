use proptest::prelude::*;

use super::*;

fn shown(uri: &str) -> String {
    Secrets::new().uri(&uri.parse().unwrap()).to_string()
}

fn text(text: &str) -> String {
    Secrets::new().text(text).into_owned()
}

#[test]
fn a_uri_is_shown_without_its_secrets_however_they_are_spelt() {
    assert_eq!(shown("/a"), "/a");
    assert_eq!(shown("/a?"), "/a?");
    assert_eq!(shown("*"), "*");
    assert_eq!(
        shown("/a?x=1&token=t&y&KEY=k&code=c&password="),
        "/a?x=1&token=REDACTED&y&KEY=REDACTED&code=REDACTED&password="
    );
    assert_eq!(
        shown("/a?%74oken=t&access_token=t&X-Amz-Signature=s&tokens=3&accessToken=t"),
        "/a?%74oken=REDACTED&access_token=REDACTED&X-Amz-Signature=REDACTED&tokens=3&accessToken=REDACTED"
    );
    assert_eq!(shown("/a?token=x=y=z?a;b"), "/a?token=REDACTED");
    assert_eq!(shown("/a?x=1;token=t;y=2&z=3"), "/a?x=1;token=REDACTED&z=3");
    assert_eq!(shown("http://me:pw@host:1/a?b"), "http://REDACTED@host:1/a?b");
    assert_eq!(shown("/npm//x@1.0/@scope/y"), "/npm//x@1.0/@scope/y");
    let long = format!("/?{}-token=t", "x".repeat(1000));
    assert!(shown(&long).ends_with("-token=REDACTED"));
}

#[test]
fn a_url_within_a_url_is_looked_into() {
    assert_eq!(
        shown("/login?next=https%3A%2F%2Fh%2Fcb%3Fcode%3DS&x=1"),
        "/login?next=REDACTED&x=1"
    );
    assert_eq!(
        shown("/login?next=https%3A%2F%2Fh%2Fcb&x=1"),
        "/login?next=https%3A%2F%2Fh%2Fcb&x=1"
    );
    assert_eq!(shown("/login?next=%252Fcb%253Fcode%253DS"), "/login?next=REDACTED");
    assert_eq!(
        shown("/login?next=https://u:p@h/cb?code=S&x=1"),
        "/login?next=https://REDACTED@h/cb?code=REDACTED&x=1"
    );
    assert_eq!(shown("/proxy/https%3A%2F%2Fu:p%40h%2F/x"), "/proxy/REDACTED/x");
    assert_eq!(shown("/proxy/https://u:p@h/x"), "/proxy/https://REDACTED@h/x");
}

#[test]
fn urls_are_found_wherever_they_stand_in_a_text() {
    assert_eq!(
        text("could not reach https://u:p@h/a?sig=S: refused, \"http://h?key=K\" neither"),
        "could not reach https://REDACTED@h/a?sig=REDACTED refused, \"http://h?key=REDACTED\" neither"
    );
    assert_eq!(
        text("</a?token=t>; rel=next, <//u@h/b#access_token=t>"),
        "</a?token=REDACTED>; rel=next, <//REDACTED@h/b#access_token=REDACTED>"
    );
    assert_eq!(text("5; url=/x?code=c"), "5; url=/x?code=REDACTED");
    assert_eq!(text("postgres://app:p'w@db/x"), "postgres://REDACTED@db/x");
    assert_eq!(text("/cb#/route?token=t"), "/cb#/route?token=REDACTED");
    for plain in [
        "",
        "mail me@example.org, 100% sure",
        "a = b",
        "really? x=1",
        "https://example.org/@user/?page=2#top",
        "\u{e4}://\u{e4}@",
    ] {
        let text = text(plain);
        assert!(text == plain || plain.contains('\u{e4}'), "{text}");
    }
}

#[test]
fn the_value_under_a_secret_name_is_hidden_and_a_query_is_read_as_one() {
    let secrets = Secrets::new();
    assert_eq!(secrets.value("dbPassword", "x"), REDACTED);
    assert_eq!(secrets.value("url.query", "token=t&x=1"), "token=REDACTED&x=1");
    assert_eq!(secrets.value("line", "token=t"), "token=t");
    let mut sensitive = HeaderValue::from_static("x");
    sensitive.set_sensitive(true);
    assert_eq!(
        secrets.header(&HeaderName::from_static("x-plain"), &sensitive),
        REDACTED
    );
}

#[test]
fn a_word_of_the_operator_s_is_secret_wherever_a_name_ends_with_it() {
    let mut secrets = Secrets::new();
    for word in ["X-Customer", "", "--", "ref"] {
        secrets.add(word);
    }
    for name in ["x-customer", "xCustomer", "app.x_customer", "order-ref", "orderRef"] {
        assert!(secrets.is_name(name), "{name}");
    }
    for name in ["customer", "x-customer-id", "href", ""] {
        assert!(!secrets.is_name(name), "{name}");
    }
    assert_eq!(
        secrets.text("see /a?X%2DCustomer=1&href=2"),
        "see /a?X%2DCustomer=REDACTED&href=2"
    );
}

fn restored(edited: &str, stored: &str) -> Result<String, String> {
    let found = Secrets::new().restored(edited, stored, Form::Text);
    found.map_err(|missing| missing.key)
}

#[test]
fn what_reads_redacted_is_put_back_where_it_was() {
    let stored = "https://u:p@h/a?code=one&code=two&next=%2F%3Fkey%3Dk&x=1";
    assert_eq!(restored(&text(stored), stored).unwrap(), stored);
    assert_eq!(
        restored("https://REDACTED@h/b?y=2&code=new&code=REDACTED", stored).unwrap(),
        "https://u:p@h/b?y=2&code=new&code=two"
    );
    assert_eq!(restored("/x?page=REDACTED", "/x?page=1").unwrap(), "/x?page=REDACTED");
    assert_eq!(restored("/x?key=REDACTED", "/x?page=1"), Err("key".into()));
}

#[test]
fn a_secret_is_not_put_back_for_another_host() {
    let stored = "https://h/a?code=S";
    for edited in [
        "https://evil/a?code=REDACTED",
        "http://h/a?code=REDACTED",
        "https://h:444/a?code=REDACTED",
        "https://REDACTED@h/a",
        "/a?code=REDACTED",
        "https://evil/?next=https://h/&code=REDACTED",
        "https://h/,https://evil/?code=REDACTED",
        "https://h/?next=https://evil/?code=REDACTED",
    ] {
        assert!(restored(edited, stored).is_err(), "{edited}");
    }
}

/// A text made of pieces that mean something in a URL, and of others.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("https://".to_owned()),
        Just("//".to_owned()),
        Just("?".to_owned()),
        Just("&".to_owned()),
        Just(";".to_owned()),
        Just("#".to_owned()),
        Just("=".to_owned()),
        Just("@".to_owned()),
        Just("/".to_owned()),
        Just(" ".to_owned()),
        Just("\"".to_owned()),
        Just("%3F".to_owned()),
        Just("%3D".to_owned()),
        Just("%25".to_owned()),
        Just("token".to_owned()),
        Just("code".to_owned()),
        Just(REDACTED.to_owned()),
        "[a-z\u{e4}]{0,3}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_is_changed_but_for_its_secrets_and_what_is_shown_can_be_put_back(stored in pieces()) {
        let secrets = Secrets::new();
        for form in [Form::Url, Form::Text, Form::Query] {
            let mut whole = String::new();
            parts(&secrets, &stored, form, &mut |part| whole.push_str(match part {
                Part::Plain(text) => text,
                Part::Secret(secret) => secret.value,
            }));
            prop_assert_eq!(&whole, &stored);
            let shown = secrets.shown(&stored, form);
            prop_assert_eq!(secrets.shown(&shown, form), shown.clone(), "what is shown hides nothing");
            prop_assert_eq!(secrets.restored(&shown, &stored, form), Ok(stored.clone()), "from {}", shown);
        }
    }

    #[test]
    fn a_planted_secret_is_in_no_text_that_is_shown(
        before in "[ -~\u{e4}]{0,12}",
        key in prop::sample::select(vec!["token", "X-Api-Key", "code", "access%5Ftoken", "clientSecret"]),
        value in "[a-zA-Z0-9;?=/.:@!$'()*+,~-]{0,6}PLANTED[a-zA-Z0-9;?=/.:@!$'()*+,~-]{0,6}",
        after in "[ -~\u{e4}]{0,12}",
    ) {
        let separated = format!("{before} ?{key}={value} {after}");
        let user = format!("{before} x://u:{}@h/{after}", value.replace(['?', '/'], "."));
        for text in [separated, user] {
            let shown = Secrets::new().text(&text).into_owned();
            prop_assert!(!shown.contains("PLANTED"), "{text} is shown as {shown}");
        }
    }
}
