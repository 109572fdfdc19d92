// SPDX-License-Identifier: MIT

//! Whether the flags are there: what /sys says of the module, and what the kernel says.

use std::path::Path;

use vremote::{available, Availability};

#[test]
fn the_answer_fits_the_machine() {
    let loaded = Path::new("/sys/module/vremote").exists();
    assert_eq!(available() == Availability::Available, loaded);
}
