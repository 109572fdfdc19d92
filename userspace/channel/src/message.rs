// SPDX-License-Identifier: GPL-2.0

//! Messages on a channel: four bytes of length, most significant first, then a value in the format of the crate `postcard`.
//! Before and behind a message there may be bytes.

use std::io::Write;

use serde::{de::DeserializeOwned, Serialize};

use crate::{Error, Reader, Writer};

/// Longest message. What is longer is sent as bytes, behind a message that says how many.
pub const MAX_MESSAGE: usize = 4 << 20;

impl Writer {
    /// Sends a message, with all that has been written before it. [`Error::TooLong`], in which case nothing is sent of it.
    pub fn send(&mut self, message: &impl Serialize) -> Result<(), Error> {
        let bytes = postcard::to_stdvec(message)?;
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|_| bytes.len() <= MAX_MESSAGE);
        let Some(length) = length else {
            return Err(Error::TooLong {
                bytes: bytes.len() as u64,
                max: MAX_MESSAGE,
            });
        };
        self.write_all(&length.to_be_bytes())?;
        self.write_all(&bytes)?;
        self.send_data()
    }
}

impl Reader {
    /// Receives a message; `None` at the end of the stream. [`Error::TooLong`] before anything is allocated for it;
    /// [`Error::Malformed`], also for a message with bytes left over.
    ///
    /// After [`Error::Silent`] before the first byte of a message it can be called again; in the middle of one the place in the
    /// stream is lost.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let mut length = [0; 4];
        if !self.fill(&mut length)? {
            return Ok(None);
        }
        let length = u32::from_be_bytes(length);
        if length as usize > MAX_MESSAGE {
            return Err(Error::TooLong {
                bytes: length.into(),
                max: MAX_MESSAGE,
            });
        }
        let mut bytes = vec![0; length as usize];
        if !self.fill(&mut bytes)? && length != 0 {
            return Err(Error::CutOff);
        }
        match postcard::take_from_bytes(&bytes)? {
            (message, []) => Ok(Some(message)),
            _ => Err(postcard::Error::DeserializeBadEncoding.into()),
        }
    }
}
