//! Routes: which tags a destination is sent.
//!
//! Owns the pattern language and its matching. Which destination has which routes is the plant's.
//!
//! - A pattern is matched against a whole tag id, part by part between the slashes.
//! - `*` stands for any run of characters inside one part, also none; `**` alone between slashes for any number of
//!   parts, also none. Nothing else is special.
//! - `!` in front refuses. A route takes a tag if some pattern takes it and no `!` pattern refuses it.
//! - A star at the beginning does not stand for the `$` of a system tag, as in MQTT: `**` is the plant's tags, and
//!   `$cluster/**` or `$*/**` are the cluster's own. No route at all takes both.

use serde::{Deserialize, Serialize};

/// A list of tag patterns; a tag is sent if some pattern takes it and no `!` pattern refuses it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The patterns as they were written, `hall-2/**` or `!**/debug/**`.
    pub tags: Vec<String>,
}

impl Route {
    /// Whether a tag of this full id is sent. A pattern that is malformed takes and refuses nothing.
    ///
    /// For many tags use [`CompiledRoutes`].
    pub fn matches(&self, tag: &str) -> bool {
        self.compile().matches(tag)
    }

    /// The route with its patterns taken apart.
    fn compile(&self) -> CompiledRoute {
        let mut compiled = CompiledRoute::default();
        for text in &self.tags {
            let Ok(pattern) = Pattern::parse(text) else { continue };
            if pattern.refuses { compiled.refused.push(pattern) } else { compiled.taken.push(pattern) }
        }
        compiled
    }
}

/// The routes of one destination, ready for many tags. No route at all takes everything.
#[derive(Debug, Clone, Default)]
pub struct CompiledRoutes {
    routes: Vec<CompiledRoute>,
}

impl CompiledRoutes {
    /// Takes the patterns apart, once.
    pub fn new(routes: &[Route]) -> Self {
        Self { routes: routes.iter().map(Route::compile).collect() }
    }

    /// Whether some route takes a tag of this full id.
    pub fn matches(&self, tag: &str) -> bool {
        self.routes.is_empty() || self.routes.iter().any(|route| route.matches(tag))
    }
}

#[derive(Debug, Clone, Default)]
struct CompiledRoute {
    taken: Vec<Pattern>,
    refused: Vec<Pattern>,
}

impl CompiledRoute {
    fn matches(&self, tag: &str) -> bool {
        self.taken.iter().any(|pattern| pattern.matches(tag))
            && !self.refused.iter().any(|pattern| pattern.matches(tag))
    }
}

/// One pattern, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    refuses: bool,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `**`: any number of parts.
    Any,
    /// One part, which must be exactly this.
    Exactly(String),
    /// One part with `*` in it: the runs of characters between the stars.
    Like(Vec<String>),
}

/// A text that is no tag pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Nothing, or nothing behind the `!`.
    #[error("expected a tag pattern such as \"hall-2/**\", found nothing")]
    Empty,
    /// Two slashes in a row, or one at an end.
    #[error("expected something between, before and behind the slashes, found {0:?}")]
    EmptyPart(String),
    /// `**` with something beside it.
    #[error("expected ** to stand alone between slashes, found {0:?}")]
    StarsNotAlone(String),
}

impl Pattern {
    /// Takes a pattern apart.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let (refuses, body) = match text.strip_prefix('!') {
            Some(body) => (true, body),
            None => (false, text),
        };
        if body.is_empty() {
            return Err(InvalidPattern::Empty);
        }
        let mut parts = Vec::new();
        for part in body.split('/') {
            let part = match part {
                "" => return Err(InvalidPattern::EmptyPart(text.to_owned())),
                "**" => Part::Any,
                part if part.contains("**") => return Err(InvalidPattern::StarsNotAlone(part.to_owned())),
                part if part.contains('*') => Part::Like(part.split('*').map(str::to_owned).collect()),
                part => Part::Exactly(part.to_owned()),
            };
            // `**/**` says no more than `**`.
            if part != Part::Any || parts.last() != Some(&Part::Any) {
                parts.push(part);
            }
        }
        Ok(Self { refuses, parts })
    }

    /// Whether it is written with `!` in front.
    pub fn refuses(&self) -> bool {
        self.refuses
    }

    /// Whether the pattern (without regard to `!`) fits a tag of this full id.
    pub fn matches(&self, tag: &str) -> bool {
        if tag.starts_with('$') && self.parts.first().is_some_and(Part::begins_with_a_star) {
            return false;
        }
        // Greedy with one place to return to: the latest `**` suffices, because an earlier one that took more could
        // only leave less for the parts behind it. So the time is at most parts of the tag × parts of the pattern.
        let mut rest = tag.split('/');
        let mut next = 0;
        let mut retry = None;
        loop {
            if self.parts.get(next) == Some(&Part::Any) {
                next += 1;
                retry = Some((rest.clone(), next));
                continue;
            }
            match (rest.next(), self.parts.get(next)) {
                (None, None) => return true,
                (Some(word), Some(part)) if part.fits(word) => next += 1,
                _ => {
                    let Some((mut from, again)) = retry.take() else { return false };
                    if from.next().is_none() {
                        return false;
                    }
                    rest = from.clone();
                    next = again;
                    retry = Some((from, again));
                }
            }
        }
    }
}

impl Part {
    fn begins_with_a_star(&self) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(_) => false,
            Self::Like(runs) => runs.first().is_some_and(String::is_empty),
        }
    }

    /// Whether one part of a tag id fits one part of a pattern.
    fn fits(&self, word: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(text) => text == word,
            Self::Like(runs) => fits_runs(runs, word),
        }
    }
}

/// Whether `word` is the runs in order with anything between them; the first must begin it and the last end it.
fn fits_runs(runs: &[String], word: &str) -> bool {
    let [first, middle @ .., last] = runs else { return false };
    let Some(mut rest) = word.strip_prefix(first.as_str()) else { return false };
    for run in middle {
        let Some(at) = rest.find(run.as_str()) else { return false };
        rest = &rest[at + run.len()..];
    }
    rest.ends_with(last.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(patterns: &[&str]) -> Route {
        Route { tags: patterns.iter().map(|text| (*text).to_owned()).collect() }
    }

    /// The meaning of a pattern, said as plainly as possible: the reference for the property tests.
    fn plainly(pattern: &[&str], tag: &[&str]) -> bool {
        match pattern.split_first() {
            None => tag.is_empty(),
            Some((&"**", rest)) => (0..=tag.len()).any(|taken| plainly(rest, &tag[taken..])),
            Some((part, rest)) => tag.split_first().is_some_and(|(word, behind)| {
                letters(part.as_bytes(), word.as_bytes()) && plainly(rest, behind)
            }),
        }
    }

    fn letters(pattern: &[u8], word: &[u8]) -> bool {
        match pattern.split_first() {
            None => word.is_empty(),
            Some((b'*', rest)) => (0..=word.len()).any(|taken| letters(rest, &word[taken..])),
            Some((letter, rest)) => {
                word.split_first().is_some_and(|(found, behind)| found == letter && letters(rest, behind))
            }
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_plain_meaning(
            pattern in proptest::collection::vec(r"\*\*|[ab]\*?[ab]?|\*[ab]?|\*[ab]\*", 1..6),
            tag in proptest::collection::vec("[ab]{1,3}", 1..6),
        ) {
            let compiled = Pattern::parse(&pattern.join("/")).expect("made of legal parts");
            let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
            let parts: Vec<&str> = tag.iter().map(String::as_str).collect();
            prop_assert_eq!(compiled.matches(&tag.join("/")), plainly(&pattern, &parts), "{:?} {:?}", pattern, tag);
        }

        #[test]
        fn a_tag_id_is_a_pattern_that_takes_only_itself(tag in "[a-z0-9./-]{1,20}", other in "[a-z0-9./-]{1,20}") {
            if let Ok(pattern) = Pattern::parse(&tag) {
                prop_assert!(pattern.matches(&tag));
                prop_assert_eq!(pattern.matches(&other), tag == other);
            }
        }

        #[test]
        fn an_exclusion_only_ever_takes_away(
            taken in r"(\*\*/)?[ab]\*?(/\*\*)?", refused in r"(\*\*/)?[ab]\*?(/\*\*)?", tag in "[ab]{1,2}(/[ab]{1,2}){0,3}",
        ) {
            let without = route(&[&taken]);
            let with = route(&[&taken, &format!("!{refused}")]);
            let alone = route(&[&refused]);
            prop_assert_eq!(with.matches(&tag), without.matches(&tag) && !alone.matches(&tag));
        }

        #[test]
        fn no_text_makes_the_matcher_panic(pattern in "[*!/ab]{0,12}|.{0,8}", tag in "[/ab]{0,12}|.{0,8}") {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                let _ = pattern.matches(&tag);
            }
        }
    }

    #[test]
    fn the_route_of_the_reference_example_means_what_it_says() {
        let route = route(&["hall-2/**", "!**/debug/**"]);
        assert!(route.matches("hall-2/press-1/level"));
        assert!(route.matches("hall-2/press-1/fast/level"));
        assert!(!route.matches("hall-2/press-1/debug/level"));
        assert!(!route.matches("hall-2/press-1/debug"), "** also stands for nothing");
        assert!(!route.matches("hall-20/press-1/level"));
        assert!(!route.matches("$cluster/leader"));
    }

    #[test]
    fn a_star_stays_between_its_slashes() {
        let route = route(&["hall-*/press-1/*"]);
        assert!(route.matches("hall-2/press-1/level"));
        assert!(route.matches("hall-/press-1/level"));
        assert!(!route.matches("hall-2/x/press-1/level"));
        assert!(!route.matches("hall-2/press-1/a/b"));
    }

    #[test]
    fn a_star_does_not_use_a_letter_twice() {
        assert!(!Pattern::parse("ab*ba").expect("legal").matches("aba"));
        assert!(Pattern::parse("ab*ba").expect("legal").matches("abba"));
    }

    #[test]
    fn no_route_takes_everything_and_a_route_of_exclusions_nothing() {
        assert!(CompiledRoutes::new(&[]).matches("$cluster/leader"));
        assert!(!route(&["!a/**"]).matches("b/c"));
        let both = CompiledRoutes::new(&[route(&["a/**", "!a/b"]), route(&["a/b"])]);
        assert!(both.matches("a/b"), "one route's exclusion does not bind another route");
    }

    #[test]
    fn system_tags_are_taken_and_refused_by_name_only() {
        for (pattern, takes) in [
            ("**", false),
            ("*/leader", false),
            ("**/leader", false),
            ("*cluster/leader", false),
            ("$cluster/**", true),
            ("$cluster/leader", true),
            ("$*/**", true),
            ("$*/leader", true),
            ("$node/**", false),
        ] {
            assert_eq!(
                Pattern::parse(pattern).expect("legal").matches("$cluster/leader"),
                takes,
                "{pattern}"
            );
        }
        assert!(
            route(&["$cluster/**", "!**/leader"]).matches("$cluster/leader"),
            "a star refuses none either"
        );
        assert!(!route(&["$cluster/**", "!$cluster/leader"]).matches("$cluster/leader"));
        assert!(route(&["**"]).matches("a/$b"), "only at the beginning");
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert_eq!(Pattern::parse(""), Err(InvalidPattern::Empty));
        assert_eq!(Pattern::parse("!"), Err(InvalidPattern::Empty));
        assert_eq!(Pattern::parse("/a"), Err(InvalidPattern::EmptyPart("/a".into())));
        assert_eq!(Pattern::parse("a//b"), Err(InvalidPattern::EmptyPart("a//b".into())));
        assert_eq!(Pattern::parse("a/b**"), Err(InvalidPattern::StarsNotAlone("b**".into())));
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let pattern = Pattern::parse(&format!("{}end", "**/a*a*a*a/".repeat(50))).expect("legal");
        assert!(!pattern.matches(&"aaaaaaaaaaaaaaaaaaaa/".repeat(200)));
    }
}
