//! `WooCommerce` escapes texts for HTML: names always, addresses at times (observed with 10.0; a checkout fault stores
//! entities there too). The shop's customer typed the character.

use std::borrow::Cow;

/// No entity that is decoded is longer, from `&` to `;`.
const LONGEST: usize = 10;

/// Decodes once: `&amp;`, `&lt;`, `&gt;`, `&quot;`, `&apos;` and numbers, with their semicolon. All else stays, such as
/// `R&D` and `&copy;`, and numbers that are no character, or one that controls.
pub(super) fn decoded(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains('&') {
        return text;
    }
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(at) = rest.find('&') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(LONGEST).position(|byte| byte == b';');
        if let Some((character, end)) = end.and_then(|end| Some((character(&rest[1..end])?, end))) {
            decoded.push(character);
            rest = &rest[end + 1..];
        } else {
            decoded.push('&');
            rest = &rest[1..];
        }
    }
    decoded.push_str(rest);
    decoded.into()
}

fn character(name: &str) -> Option<char> {
    let number = match name {
        "amp" => return Some('&'),
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "quot" => return Some('"'),
        "apos" => return Some('\''),
        _ => name.strip_prefix('#')?,
    };
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    // `from_str_radix` would take a sign.
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let code = u32::from_str_radix(digits, radix).ok().filter(|_| is_number)?;
    char::from_u32(code).filter(|character| !character.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> String {
        decoded(text.into()).into_owned()
    }

    #[test]
    fn entities_are_decoded_once_and_only_those_with_a_semicolon() {
        for (escaped, text) in [
            ("Müller &amp; Söhne", "Müller & Söhne"),
            ("O&#039;Hara &#x27;&#X27;", "O'Hara ''"),
            ("&lt;b&gt; &quot;x&quot; &apos;", "<b> \"x\" '"),
            ("&amp;lt;", "&lt;"),
            ("&#128640;", "🚀"),
        ] {
            assert_eq!(of(escaped), text);
        }
        let stays = [
            "R&D",
            "&copy",
            "&copy;",
            "&amp",
            "a & b;",
            "&;",
            "&#;",
            "&#x;",
            "&#0;",
            "&#9;",
            "&#xd800;",
            "&#+39;",
            "&#x110000;",
            "&",
            "ü&ü;",
        ];
        for text in stays {
            assert_eq!(of(text), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(&|#|x|;|amp|[0-9a-f]{1,8}|ü|🚀){0,20}") {
            let _ = of(&text);
        }
    }
}
