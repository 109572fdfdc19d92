// SPDX-License-Identifier: GPL-2.0

//! Exercises for a file that several nodes share: each is run by one or more processes on every node at the same time, and fails when
//! what they see is not what one file on one machine would show.
//!
//! - [`fsx`]: random operations in turns, compared with a model.
//! - [`litmus`]: what concurrent loads and stores of a few words may show.
//! - [`words`]: whether each word is linearizable while all read and write it.
//!
//! The parties of a run meet at party 0 ([`meeting`]); turns are passed in small datagrams ([`baton`]).

pub mod baton;
pub mod ending;
pub mod figures;
pub mod file;
pub mod fsx;
pub mod litmus;
pub mod mapping;
pub mod meeting;
pub mod parties;
pub mod random;
pub mod watch;
pub mod words;
