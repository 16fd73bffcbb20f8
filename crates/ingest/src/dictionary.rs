//! The dictionary of one stream: which tags the client named, and what they are in the revision in force.
//!
//! - An index, once given, stays: also that of a tag in error.
//! - After [`Dictionary::refresh`] every entry is that of one revision or a later one.

use model::{Revision, TagId, ValueType};
use wire::proto::v1::push_request::{Declare, DeclaredTag, Type};
use wire::proto::v1::push_response::{Declared, TagError, TagProblem};

use crate::tags::{TagResolver, Unresolved};

/// Longest tag name in bytes.
pub(crate) const MAX_NAME: usize = 512;

/// What an entry costs beside its name.
const ENTRY_BYTES: usize = 64;

/// The tags of one stream.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    revision: Revision,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    wanted: Option<ValueType>,
    tag: Result<TagId, TagFault>,
}

/// Why a declared tag cannot be pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TagFault {
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    #[error("its type in the plant is {actual}")]
    Type { actual: ValueType },
}

/// The client breaks the rules of the stream, which ends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BrokenRule {
    #[error("one stream may declare {limit} tags at most")]
    TooManyTags { limit: u32 },
    #[error("the name of a tag has {found} bytes, at most {MAX_NAME} are possible")]
    LongName { found: usize },
}

impl Dictionary {
    /// What the entries of a declaration will cost, in bytes.
    pub(crate) fn cost(declare: &Declare) -> usize {
        declare.tags.iter().map(|tag| ENTRY_BYTES + tag.name.len()).sum()
    }

    /// Appends tags.
    pub(crate) fn declare(
        &mut self,
        resolver: &impl TagResolver,
        declare: Declare,
        limit: u32,
    ) -> Result<Declared, BrokenRule> {
        if self.entries.len() + declare.tags.len() > limit as usize {
            return Err(BrokenRule::TooManyTags { limit });
        }
        if let Some(long) = declare.tags.iter().find(|tag| tag.name.len() > MAX_NAME) {
            return Err(BrokenRule::LongName { found: long.name.len() });
        }
        if self.entries.is_empty() {
            self.revision = resolver.revision();
        }
        let first = self.entries.len();
        self.entries.extend(declare.tags.into_iter().map(|DeclaredTag { name, r#type }| {
            let wanted = Type::try_from(r#type).ok().and_then(value_type);
            let tag = look_up(resolver, &name, wanted);
            Entry { name: name.into_boxed_str(), wanted, tag }
        }));
        Ok(self.describe(first))
    }

    /// Looks all tags up again if there is a new revision. Gives a description if anything changed for the client.
    pub(crate) fn refresh(&mut self, resolver: &impl TagResolver) -> Option<Declared> {
        let revision = resolver.revision();
        if revision == self.revision {
            return None;
        }
        self.revision = revision;
        let mut has_changed = false;
        for entry in &mut self.entries {
            let tag = look_up(resolver, &entry.name, entry.wanted);
            // Another id under the same name and type is nothing to the client.
            has_changed |= tag.err() != entry.tag.err();
            entry.tag = tag;
        }
        has_changed.then(|| self.describe(0))
    }

    /// The revision of the last look-up.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The tag of an index, or why there is none.
    pub(crate) fn get(&self, index: u32) -> Result<(TagId, ValueType), String> {
        let Some(entry) = self.entries.get(index as usize) else {
            return Err(format!("tag {index} is not declared"));
        };
        match (entry.tag, entry.wanted) {
            (Ok(tag), Some(value_type)) => Ok((tag, value_type)),
            (Err(fault), _) => Err(format!("tag {index} ({}): {fault}", entry.name)),
            (Ok(_), None) => Err(format!("tag {index} ({}): declared without a type", entry.name)),
        }
    }

    fn describe(&self, first: usize) -> Declared {
        let as_index = |index: usize| u32::try_from(index).expect("bounded by max_tags");
        let errors = self.entries.iter().enumerate().skip(first).filter_map(|(index, entry)| {
            let fault = entry.tag.err()?;
            let problem = match fault {
                TagFault::Unresolved(Unresolved::Unknown) => TagProblem::Unknown,
                TagFault::Unresolved(Unresolved::Polled) => TagProblem::Polled,
                TagFault::Type { .. } => TagProblem::Type,
            };
            let text = format!("{}: {fault}", entry.name);
            Some(TagError { index: as_index(index), problem: problem.into(), text })
        });
        Declared {
            first: as_index(first),
            count: as_index(self.entries.len() - first),
            revision: self.revision.0,
            errors: errors.collect(),
        }
    }
}

fn look_up(resolver: &impl TagResolver, name: &str, wanted: Option<ValueType>) -> Result<TagId, TagFault> {
    match resolver.resolve(name)? {
        (tag, actual) if wanted == Some(actual) => Ok(tag),
        (_, actual) => Err(TagFault::Type { actual }),
    }
}

fn value_type(declared: Type) -> Option<ValueType> {
    Some(match declared {
        Type::Unspecified => return None,
        Type::Bool => ValueType::Bool,
        Type::I16 => ValueType::I16,
        Type::U16 => ValueType::U16,
        Type::I32 => ValueType::I32,
        Type::U32 => ValueType::U32,
        Type::I64 => ValueType::I64,
        Type::U64 => ValueType::U64,
        Type::F32 => ValueType::F32,
        Type::F64 => ValueType::F64,
        Type::String => ValueType::String,
        Type::Bytes => ValueType::Bytes,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;

    /// A plant whose tags and revision tests can change.
    #[derive(Debug, Default)]
    pub(crate) struct Catalog {
        state: Mutex<(u64, Tags)>,
    }

    type Tags = BTreeMap<String, (TagId, ValueType)>;

    impl Catalog {
        pub(crate) fn new(tags: &[(&str, u32, ValueType)]) -> Self {
            let catalog = Self::default();
            catalog.set(tags);
            catalog
        }

        pub(crate) fn set(&self, tags: &[(&str, u32, ValueType)]) {
            let mut state = self.state.lock().expect("no test panics here");
            state.0 += 1;
            state.1 = tags.iter().map(|(name, id, ty)| ((*name).to_owned(), (TagId(*id), *ty))).collect();
        }
    }

    impl TagResolver for Catalog {
        fn resolve(&self, name: &str) -> Result<(TagId, ValueType), Unresolved> {
            if name.starts_with("polled/") {
                return Err(Unresolved::Polled);
            }
            self.state.lock().expect("no test panics here").1.get(name).copied().ok_or(Unresolved::Unknown)
        }

        fn revision(&self) -> Revision {
            Revision(self.state.lock().expect("no test panics here").0)
        }
    }

    pub(crate) fn declare(tags: &[(&str, Type)]) -> Declare {
        let tags =
            tags.iter().map(|(name, ty)| DeclaredTag { name: (*name).to_owned(), r#type: (*ty).into() });
        Declare { tags: tags.collect() }
    }

    fn problems(declared: &Declared) -> Vec<(u32, TagProblem)> {
        declared.errors.iter().map(|error| (error.index, error.problem())).collect()
    }

    #[test]
    fn each_tag_in_error_is_named_and_the_others_can_be_used() {
        let catalog = Catalog::new(&[("press/force", 7, ValueType::F32), ("press/count", 8, ValueType::U32)]);
        let mut dictionary = Dictionary::default();
        let tags = [
            ("press/force", Type::F32),
            ("press/speed", Type::F32),
            ("polled/level", Type::F32),
            ("press/count", Type::I32),
            ("press/count", Type::Unspecified),
        ];
        let declared = dictionary.declare(&catalog, declare(&tags), 10).expect("within the rules");
        assert_eq!((declared.first, declared.count, declared.revision), (0, 5, 1));
        let expected =
            [(1, TagProblem::Unknown), (2, TagProblem::Polled), (3, TagProblem::Type), (4, TagProblem::Type)];
        assert_eq!(problems(&declared), expected);
        assert_eq!(dictionary.get(0), Ok((TagId(7), ValueType::F32)));
        let text = dictionary.get(2).expect_err("it is polled");
        assert!(text.contains("polled, it cannot be pushed"), "{text}");
        assert!(dictionary.get(5).is_err());
    }

    #[test]
    fn a_second_declaration_goes_on_counting() {
        let catalog = Catalog::new(&[("a/x", 1, ValueType::Bool), ("a/y", 2, ValueType::Bool)]);
        let mut dictionary = Dictionary::default();
        dictionary.declare(&catalog, declare(&[("a/x", Type::Bool)]), 2).expect("within the rules");
        let second =
            dictionary.declare(&catalog, declare(&[("a/y", Type::Bool)]), 2).expect("within the rules");
        assert_eq!((second.first, second.count), (1, 1));
        assert_eq!(dictionary.get(1), Ok((TagId(2), ValueType::Bool)));
        let broken = dictionary.declare(&catalog, declare(&[("a/z", Type::Bool)]), 2);
        assert_eq!(broken, Err(BrokenRule::TooManyTags { limit: 2 }));
    }

    #[test]
    fn a_new_revision_is_followed_and_told_only_where_it_matters() {
        let catalog = Catalog::new(&[("a/x", 1, ValueType::Bool)]);
        let mut dictionary = Dictionary::default();
        dictionary.declare(&catalog, declare(&[("a/x", Type::Bool)]), 2).expect("within the rules");
        assert_eq!(dictionary.refresh(&catalog), None);
        catalog.set(&[("a/x", 9, ValueType::Bool)]);
        assert_eq!(dictionary.refresh(&catalog), None);
        assert_eq!(dictionary.get(0), Ok((TagId(9), ValueType::Bool)));
        catalog.set(&[("a/x", 9, ValueType::F32)]);
        let told = dictionary.refresh(&catalog).expect("the tag has become unusable");
        assert_eq!((told.revision, problems(&told)), (3, vec![(0, TagProblem::Type)]));
        assert_eq!(dictionary.revision(), Revision(3));
    }

    #[test]
    fn an_endless_name_breaks_the_rules() {
        let long = "x".repeat(MAX_NAME + 1);
        let broken = Dictionary::default().declare(&Catalog::default(), declare(&[(&long, Type::Bool)]), 2);
        assert_eq!(broken, Err(BrokenRule::LongName { found: MAX_NAME + 1 }));
    }
}
