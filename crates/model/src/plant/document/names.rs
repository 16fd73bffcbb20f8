//! What an id may be.
//!
//! Ids become parts of topics, of paths and of patterns at the far side, and an id is for ever: so the rule is
//! strict where strictness costs nothing, and can be loosened later.

use super::diagnostics::Spanned;
use super::reader::{Fields, nearest};

/// Bytes of an id at most; a full tag id is at most twice that and one.
const MAX_BYTES: usize = 255;

/// Characters an id may have besides letters and digits (of any script).
const PUNCTUATION: &str = " -_.:@~=()[]%";

/// What an id names, which decides whether it has parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// Devices, templates and tags may have slashes: `hall-2/press-1`.
    Path,
    /// Groups, destinations and nodes have none.
    Word,
}

/// Why a text is no id, in words for the author.
pub(super) fn check_id(text: &str, named: Named) -> Result<(), String> {
    if text.contains("${") || text.starts_with('$') {
        return Err(format!(
            "expected an id that does not begin with $ nor hold ${{, which are reserved, found {text:?}"
        ));
    }
    if text.is_empty() || text.len() > MAX_BYTES {
        return Err(format!("expected an id of 1 to {MAX_BYTES} bytes, found {}", text.len()));
    }
    if named == Named::Word && text.contains('/') {
        return Err(format!("expected an id without slashes, found {text:?}"));
    }
    for part in text.split('/') {
        if part.is_empty() || part.trim() != part || matches!(part, "." | "..") {
            return Err(format!(
                "expected a name between, before and behind the slashes of an id, found {text:?}"
            ));
        }
        if let Some(odd) = part.chars().find(|c| !c.is_alphanumeric() && !PUNCTUATION.contains(*c)) {
            return Err(format!(
                "expected an id of letters, digits, spaces and -_.:@~=()[]%, found {odd:?} in {text:?}"
            ));
        }
    }
    Ok(())
}

/// Reads an id that must be there. A text that is no id is complained about and still returned, so that what refers
/// to it is not complained about as well.
pub(super) fn read_id<'d>(
    fields: &mut Fields<'d>,
    key: &'static str,
    named: Named,
) -> Option<Spanned<&'d str>> {
    let Some(id) = fields.text(key) else {
        fields.missing(key, "an id");
        return None;
    };
    if let Err(message) = check_id(id.value, named) {
        fields.error(id.place, message);
    }
    Some(id)
}

/// "did you mean …?", or what there is, for a reference to `what` that leads nowhere.
pub(super) fn suggest<'a>(found: &str, known: impl Iterator<Item = &'a str> + Clone, what: &str) -> String {
    match nearest(found, known.clone()) {
        Some(name) => format!("did you mean {name:?}?"),
        None => {
            let some: Vec<String> = known.take(8).map(|name| format!("{name:?}")).collect();
            if some.is_empty() {
                format!("there is no {what}")
            } else {
                format!("there is {}", some.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plants_name_things_in_many_ways() {
        for id in ["hall-2/press-1", "Öldruck 3", "DB1.DBD4", "Temp[1]", "a:b", "温度", "50%"] {
            assert_eq!(check_id(id, Named::Path), Ok(()), "{id}");
        }
        assert!(check_id("fast", Named::Word).is_ok());
    }

    #[test]
    fn what_would_break_topics_patterns_or_reserved_names_is_refused() {
        for id in [
            "", "$cluster", "a${b}", "a//b", "/a", "a/", " a", "a/ b", "a*", "!a", "a#", "a+", "a\"b",
            "a\nb", "..",
        ] {
            assert!(check_id(id, Named::Path).is_err(), "{id:?}");
        }
        assert!(check_id("a/b", Named::Word).is_err());
        assert!(check_id(&"a".repeat(256), Named::Path).is_err());
    }
}
