//! Slips of the pen: characters and bytes that are added, left out or exchanged, anywhere in what was valid.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Characters that mean something to some reader.
const MARKS: &str = "\"'`=[]{}()#.,:;/\\|<>@&%$+-_ \t\r\n\u{0}\u{feff}\u{a0}\u{e9}09azAZ";

/// One slip.
#[derive(Debug, Clone)]
pub(crate) enum Edit<T> {
    Insert(Index, T),
    Remove(Index),
    Exchange(Index, T),
    /// Everything from there on.
    Cut(Index),
}

fn edits<T: std::fmt::Debug + Clone>(
    unit: impl Strategy<Value = T> + Clone,
    at_most: usize,
) -> impl Strategy<Value = Vec<Edit<T>>> {
    let edit = prop_oneof![
        8 => (any::<Index>(), unit.clone()).prop_map(|(at, unit)| Edit::Insert(at, unit)),
        8 => any::<Index>().prop_map(Edit::Remove),
        8 => (any::<Index>(), unit).prop_map(|(at, unit)| Edit::Exchange(at, unit)),
        1 => any::<Index>().prop_map(Edit::Cut),
    ];
    vec(edit, 0..=at_most)
}

/// Slips in a text.
pub(crate) fn of_text(at_most: usize) -> impl Strategy<Value = Vec<Edit<char>>> {
    let mark = proptest::sample::select(MARKS.chars().collect::<Vec<_>>());
    edits(prop_oneof![4 => mark, 1 => any::<char>()], at_most)
}

/// Slips in bytes.
pub(crate) fn of_bytes(at_most: usize) -> impl Strategy<Value = Vec<Edit<u8>>> {
    edits(prop_oneof![proptest::sample::select(MARKS.as_bytes().to_vec()), any::<u8>()], at_most)
}

/// The text with the slips in it.
pub(crate) fn text_with(text: &str, edits: &[Edit<char>]) -> String {
    with(text.chars().collect(), edits).into_iter().collect()
}

/// The bytes with the slips in them.
pub(crate) fn bytes_with(bytes: &[u8], edits: &[Edit<u8>]) -> Vec<u8> {
    with(bytes.to_vec(), edits)
}

fn with<T: Clone>(mut units: Vec<T>, edits: &[Edit<T>]) -> Vec<T> {
    for edit in edits {
        let size = units.len();
        match edit {
            Edit::Insert(at, unit) => units.insert(at.index(size + 1), unit.clone()),
            Edit::Cut(at) => units.truncate(at.index(size + 1)),
            Edit::Remove(_) | Edit::Exchange(..) if size == 0 => {}
            Edit::Remove(at) => drop(units.remove(at.index(size))),
            Edit::Exchange(at, unit) => units[at.index(size)] = unit.clone(),
        }
    }
    units
}
