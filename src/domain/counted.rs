//! Numbers of things, as people say them.

/// `1 event`, `2 events`.
pub(crate) fn counted<N: Copy + PartialEq + From<u8> + std::fmt::Display>(number: N, word: &str) -> String {
    let ending = if number == N::from(1) { "" } else { "s" };
    format!("{number} {word}{ending}")
}
