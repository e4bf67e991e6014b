//! What each fuzz target does, and how much memory it may take for it.
pub mod exercise;

use std::alloc::System;
use std::sync::LazyLock;

use cap::Cap;

/// The allocator of every target: it counts, and gives nothing above its limit.
pub type Allocator = Cap<System>;

/// One without a limit so far.
pub const fn allocator() -> Allocator {
    Cap::new(System, usize::MAX)
}

/// Run an exercise with no more memory than its input justifies. More is not given, which aborts: a find.
pub fn bounded(allocator: &Allocator, exercise: fn(&[u8]), input: &[u8]) {
    LazyLock::force(&exercise::CATALOG);
    let limit = allocator.allocated().saturating_add(exercise::allowance(input));
    allocator.set_limit(limit).expect("the limit is above what is allocated");
    exercise(input);
    allocator.set_limit(usize::MAX).expect("there is no higher one");
}
