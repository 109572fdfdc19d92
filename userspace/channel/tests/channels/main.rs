// SPDX-License-Identifier: GPL-2.0

//! Channels over TCP on loopback.

mod common;
mod hostile;
mod proper;
