// SPDX-License-Identifier: GPL-2.0

//! A set of nodes, in a fixed number of bits.

use super::limits::MAX_NODES;

/// Slot of a remote in the peer table of one origin, 0 to [`MAX_NODES`] - 1. It means nothing on another node.
pub type Node = u8;

const _: () = assert!(
    MAX_NODES == Node::MAX as usize + 1,
    "a Node must index every bit of a NodeSet"
);

/// A set of [`Node`]s. `Default` is the empty one.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NodeSet([u64; MAX_NODES / 64]);

impl NodeSet {
    /// The empty set.
    pub const fn new() -> NodeSet {
        NodeSet([0; MAX_NODES / 64])
    }

    const fn place(node: Node) -> (usize, u64) {
        (node as usize / 64, 1 << (node % 64))
    }

    /// Puts `node` in; says whether it was not there before.
    pub fn insert(&mut self, node: Node) -> bool {
        let (word, bit) = NodeSet::place(node);
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// Takes `node` out; says whether it was there.
    pub fn remove(&mut self, node: Node) -> bool {
        let (word, bit) = NodeSet::place(node);
        let there = self.0[word] & bit != 0;
        self.0[word] &= !bit;
        there
    }

    /// Whether `node` is in.
    pub const fn contains(&self, node: Node) -> bool {
        let (word, bit) = NodeSet::place(node);
        self.0[word] & bit != 0
    }

    /// The same set without `node`.
    pub fn without(mut self, node: Node) -> NodeSet {
        self.remove(node);
        self
    }

    /// Whether nobody is in.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many nodes are in, 0 to [`MAX_NODES`].
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The lowest node, if any.
    pub fn first(&self) -> Option<Node> {
        self.iter().next()
    }

    /// The nodes, lowest first.
    pub fn iter(&self) -> Iter {
        Iter(*self)
    }
}

impl From<Node> for NodeSet {
    /// The set of this one node.
    fn from(node: Node) -> NodeSet {
        let mut set = NodeSet::new();
        set.insert(node);
        set
    }
}

impl FromIterator<Node> for NodeSet {
    fn from_iter<I: IntoIterator<Item = Node>>(nodes: I) -> NodeSet {
        let mut set = NodeSet::new();
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

impl IntoIterator for NodeSet {
    type Item = Node;
    type IntoIter = Iter;
    fn into_iter(self) -> Iter {
        Iter(self)
    }
}

impl core::fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The nodes of a [`NodeSet`], lowest first.
#[derive(Clone, Debug)]
pub struct Iter(NodeSet);

impl Iterator for Iter {
    type Item = Node;

    fn next(&mut self) -> Option<Node> {
        for (at, word) in self.0 .0.iter_mut().enumerate() {
            if *word != 0 {
                let bit = word.trailing_zeros();
                *word &= *word - 1;
                return Some((at as u32 * 64 + bit) as Node);
            }
        }
        None
    }
}
