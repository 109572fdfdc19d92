// SPDX-License-Identifier: GPL-2.0

//! CRIU's image files: which files a dumped tree has open, and where the restored one shall open them.
//!
//! An image file is two magic numbers (`u32`, little endian) and then entries, each a `u32` length and so many bytes of protobuf.
//! Entries are taken apart into raw fields, a few of which are changed: what a newer CRIU adds stays as it is.

use std::collections::HashMap;

use prost::{
    bytes::Buf,
    encoding::{decode_key, decode_varint, encode_key, encode_varint, WireType},
};

use crate::flags::{O_ORIGIN, O_REMOTE};

/// First number of every image file but the inventory's.
const COMMON_MAGIC: u32 = 0x5456_4319;

/// Second number of an image file, by what is in it.
const FILES_MAGIC: u32 = 0x5630_3138;
const REG_FILES_MAGIC: u32 = 0x5036_3636;
const MM_MAGIC: u32 = 0x5749_2820;
const REMAP_FPATH_MAGIC: u32 = 0x5913_3954;

/// `fd_types.REG` of CRIU's `fdinfo.proto`.
const TYPE_REG: u64 = 1;

/// Fields of `file_entry`.
mod file_entry {
    pub(super) const TYPE: u32 = 1;
    pub(super) const REG: u32 = 3;
}

/// Fields of `reg_file_entry`.
mod reg_file_entry {
    pub(super) const ID: u32 = 1;
    pub(super) const FLAGS: u32 = 2;
    pub(super) const NAME: u32 = 6;
    pub(super) const SIZE: u32 = 8;
    pub(super) const MODE: u32 = 10;
    pub(super) const BUILD_ID: u32 = 11;
    pub(super) const CHECKSUM: u32 = 12;
    pub(super) const CHECKSUM_CONFIG: u32 = 13;
    pub(super) const CHECKSUM_PARAMETER: u32 = 14;
}

/// Fields of `mm_entry` and `vma_entry`.
mod mm_entry {
    pub(super) const VMAS: u32 = 14;
    /// For a mapping of a file: the file's id.
    pub(super) const VMA_SHMID: u32 = 4;
    /// Only mappings of files have it.
    pub(super) const VMA_FDFLAGS: u32 = 10;
}

/// Fields of `remap_file_path_entry`.
mod remap_entry {
    pub(super) const ORIG_ID: u32 = 1;
}

/// Why an image file cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Malformed {
    /// The magic numbers are others.
    #[error("it is no image of this kind (magic {0:#x})")]
    Magic(u32),
    /// It ends within an entry.
    #[error("it ends within an entry")]
    Short,
    /// An entry is no protobuf.
    #[error("an entry is no protobuf message: {0}")]
    Protobuf(String),
    /// A field that must be there is not.
    #[error("an entry lacks field {0}")]
    Lacks(u32),
}

/// One field of a message as it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Varint(u64),
    Fixed64(u64),
    Bytes(Vec<u8>),
    Fixed32(u32),
}

/// A protobuf message of which only the wire format is known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message(Vec<(u32, Value)>);

impl Message {
    fn parse(mut bytes: &[u8]) -> Result<Message, Malformed> {
        let bad = |error: prost::DecodeError| Malformed::Protobuf(error.to_string());
        let short = || Malformed::Protobuf("a field is cut off".into());
        let mut fields = Vec::new();
        while bytes.has_remaining() {
            let (number, kind) = decode_key(&mut bytes).map_err(bad)?;
            let value = match kind {
                WireType::Varint => Value::Varint(decode_varint(&mut bytes).map_err(bad)?),
                WireType::SixtyFourBit => {
                    Value::Fixed64(bytes.try_get_u64_le().map_err(|_| short())?)
                }
                WireType::ThirtyTwoBit => {
                    Value::Fixed32(bytes.try_get_u32_le().map_err(|_| short())?)
                }
                WireType::LengthDelimited => {
                    let length = decode_varint(&mut bytes).map_err(bad)?;
                    let length = usize::try_from(length).map_err(|_| short())?;
                    let (value, rest) = bytes.split_at_checked(length).ok_or_else(short)?;
                    bytes = rest;
                    Value::Bytes(value.to_vec())
                }
                WireType::StartGroup | WireType::EndGroup => {
                    return Err(Malformed::Protobuf("it has groups".into()))
                }
            };
            fields.push((number, value));
        }
        Ok(Message(fields))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in &self.0 {
            let kind = match value {
                Value::Varint(_) => WireType::Varint,
                Value::Fixed64(_) => WireType::SixtyFourBit,
                Value::Bytes(_) => WireType::LengthDelimited,
                Value::Fixed32(_) => WireType::ThirtyTwoBit,
            };
            encode_key(*number, kind, &mut out);
            match value {
                Value::Varint(value) => encode_varint(*value, &mut out),
                Value::Fixed64(value) => out.extend(value.to_le_bytes()),
                Value::Fixed32(value) => out.extend(value.to_le_bytes()),
                Value::Bytes(bytes) => {
                    encode_varint(bytes.len() as u64, &mut out);
                    out.extend(bytes);
                }
            }
        }
        out
    }

    fn number(&self, field: u32) -> Option<u64> {
        self.0.iter().find_map(|(number, value)| match value {
            Value::Varint(value) if *number == field => Some(*value),
            _ => None,
        })
    }

    fn bytes(&self, field: u32) -> Option<&[u8]> {
        self.0.iter().find_map(|(number, value)| match value {
            Value::Bytes(bytes) if *number == field => Some(&bytes[..]),
            _ => None,
        })
    }

    /// Changes a field that is there.
    fn set(&mut self, field: u32, to: Value) {
        if let Some((_, value)) = self.0.iter_mut().find(|(number, _)| *number == field) {
            *value = to;
        }
    }

    fn remove(&mut self, fields: &[u32]) {
        self.0.retain(|(number, _)| !fields.contains(number));
    }
}

/// The entries of an image file.
struct Entries(Vec<Message>);

impl Entries {
    fn parse(mut bytes: &[u8], magic: u32) -> Result<Entries, Malformed> {
        for expected in [COMMON_MAGIC, magic] {
            let got = bytes.try_get_u32_le().map_err(|_| Malformed::Short)?;
            if got != expected {
                return Err(Malformed::Magic(got));
            }
        }
        let mut entries = Vec::new();
        while bytes.has_remaining() {
            let length = bytes.try_get_u32_le().map_err(|_| Malformed::Short)?;
            let (entry, rest) = bytes
                .split_at_checked(length as usize)
                .ok_or(Malformed::Short)?;
            entries.push(Message::parse(entry)?);
            bytes = rest;
        }
        Ok(Entries(entries))
    }

    fn encode(&self, magic: u32) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(COMMON_MAGIC.to_le_bytes());
        out.extend(magic.to_le_bytes());
        for entry in &self.0 {
            let bytes = entry.encode();
            out.extend((bytes.len() as u32).to_le_bytes());
            out.extend(bytes);
        }
        out
    }
}

/// What kind of image a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `files.img`: all files, of CRIU 3.4 and later.
    Files,
    /// `reg-files.img`: regular files, of older ones.
    RegFiles,
    /// `mm-PID.img`: mappings.
    Mm,
    /// `remap-fpath.img`: files without a name.
    Remap,
    /// One that is of no interest here.
    Other,
}

impl Kind {
    /// The kind of the image file `name`.
    pub fn of(name: &str) -> Kind {
        match name {
            "files.img" => Kind::Files,
            "reg-files.img" => Kind::RegFiles,
            "remap-fpath.img" => Kind::Remap,
            _ if name.starts_with("mm-") => Kind::Mm,
            _ => Kind::Other,
        }
    }
}

/// A regular file, directory or device in the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// By which mappings and descriptors refer to it.
    pub id: u32,
    /// Its path, absolute.
    pub path: Vec<u8>,
    /// `st_mode`; 0 if the image does not say.
    pub mode: u32,
}

fn file_of(reg: &Message) -> Result<File, Malformed> {
    use reg_file_entry::{ID, MODE, NAME};
    Ok(File {
        id: reg.number(ID).ok_or(Malformed::Lacks(ID))? as u32,
        path: reg.bytes(NAME).ok_or(Malformed::Lacks(NAME))?.to_vec(),
        mode: reg.number(MODE).unwrap_or(0) as u32,
    })
}

/// The files in `files.img` or `reg-files.img`; nothing for other kinds.
pub fn files(kind: Kind, bytes: &[u8]) -> Result<Vec<File>, Malformed> {
    match kind {
        Kind::RegFiles => Entries::parse(bytes, REG_FILES_MAGIC)?
            .0
            .iter()
            .map(file_of)
            .collect(),
        Kind::Files => {
            let entries = Entries::parse(bytes, FILES_MAGIC)?;
            let regs = entries
                .0
                .iter()
                .filter(|entry| entry.number(file_entry::TYPE) == Some(TYPE_REG));
            regs.filter_map(|entry| entry.bytes(file_entry::REG))
                .map(|reg| file_of(&Message::parse(reg)?))
                .collect()
        }
        Kind::Mm | Kind::Remap | Kind::Other => Ok(Vec::new()),
    }
}

/// Ids of files that have lost their name, from `remap-fpath.img`: CRIU makes them anew.
pub fn nameless(bytes: &[u8]) -> Result<Vec<u32>, Malformed> {
    let entries = Entries::parse(bytes, REMAP_FPATH_MAGIC)?;
    let ids = entries.0.iter().map(|entry| {
        let id = entry.number(remap_entry::ORIG_ID);
        id.map(|id| id as u32)
            .ok_or(Malformed::Lacks(remap_entry::ORIG_ID))
    });
    ids.collect()
}

/// Where the restored tree opens a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the same path, of the target; it must be the same there, which CRIU checks.
    Same,
    /// At this path of the target, where the file itself is: it comes home.
    Home(Vec<u8>),
    /// At this path, `/vremote/NODE/…`, of another node.
    Remote(Vec<u8>),
    /// As `Remote`, but a directory, for which the flag O_REMOTE is not allowed.
    RemoteDirectory(Vec<u8>),
}

/// Where each file is opened, by id. A file that is not in it is opened at the same path.
pub type Places = HashMap<u32, Place>;

/// An image with its files moved to their places.
pub fn rewrite(kind: Kind, bytes: &[u8], places: &Places) -> Result<Vec<u8>, Malformed> {
    match kind {
        Kind::RegFiles => {
            let mut entries = Entries::parse(bytes, REG_FILES_MAGIC)?;
            for reg in &mut entries.0 {
                move_file(reg, places)?;
            }
            Ok(entries.encode(REG_FILES_MAGIC))
        }
        Kind::Files => {
            let mut entries = Entries::parse(bytes, FILES_MAGIC)?;
            for entry in &mut entries.0 {
                if entry.number(file_entry::TYPE) != Some(TYPE_REG) {
                    continue;
                }
                let Some(reg) = entry.bytes(file_entry::REG) else {
                    continue;
                };
                let mut reg = Message::parse(reg)?;
                move_file(&mut reg, places)?;
                entry.set(file_entry::REG, Value::Bytes(reg.encode()));
            }
            Ok(entries.encode(FILES_MAGIC))
        }
        Kind::Mm => {
            let mut entries = Entries::parse(bytes, MM_MAGIC)?;
            for mm in &mut entries.0 {
                for (number, value) in &mut mm.0 {
                    if let (mm_entry::VMAS, Value::Bytes(vma)) = (*number, &mut *value) {
                        let mut vma_entry = Message::parse(vma)?;
                        move_mapping(&mut vma_entry, places);
                        *vma = vma_entry.encode();
                    }
                }
            }
            Ok(entries.encode(MM_MAGIC))
        }
        Kind::Remap | Kind::Other => Ok(bytes.to_vec()),
    }
}

/// The flags with which a file is opened at its place.
fn flags_at(place: Option<&Place>, flags: u64) -> u64 {
    let bare = flags & !u64::from(O_ORIGIN | O_REMOTE);
    match place {
        Some(Place::Remote(_)) => bare | u64::from(O_REMOTE),
        Some(Place::Same | Place::Home(_) | Place::RemoteDirectory(_)) | None => bare,
    }
}

fn move_file(reg: &mut Message, places: &Places) -> Result<(), Malformed> {
    use reg_file_entry as field;
    let file = file_of(reg)?;
    let place = places.get(&file.id);
    let flags = reg
        .number(field::FLAGS)
        .ok_or(Malformed::Lacks(field::FLAGS))?;
    reg.set(field::FLAGS, Value::Varint(flags_at(place, flags)));
    if let Some(Place::Home(path) | Place::Remote(path) | Place::RemoteDirectory(path)) = place {
        reg.set(field::NAME, Value::Bytes(path.clone()));
        // It is the same file, not one like it: others may have written it since, and it needs no check.
        reg.remove(&[
            field::SIZE,
            field::BUILD_ID,
            field::CHECKSUM,
            field::CHECKSUM_CONFIG,
            field::CHECKSUM_PARAMETER,
        ]);
    }
    Ok(())
}

fn move_mapping(vma: &mut Message, places: &Places) {
    let Some(flags) = vma.number(mm_entry::VMA_FDFLAGS) else {
        return;
    };
    let id = vma.number(mm_entry::VMA_SHMID).unwrap_or(0);
    let place = u32::try_from(id).ok().and_then(|id| places.get(&id));
    vma.set(mm_entry::VMA_FDFLAGS, Value::Varint(flags_at(place, flags)));
}

/// Magic numbers of CRIU's statistics.
const SERVICE_MAGIC: u32 = 0x5510_5940;
const STATS_MAGIC: u32 = 0x5709_3306;

/// Fields of `stats_entry` and `dump_stats_entry`.
mod stats_entry {
    pub(super) const DUMP: u32 = 1;
    pub(super) const PAGES_WRITTEN: u32 = 7;
}

/// How many pages a dump or a round of pre-copy has written, from its `stats-dump`.
pub fn pages_written(mut bytes: &[u8]) -> Result<u64, Malformed> {
    for expected in [SERVICE_MAGIC, STATS_MAGIC] {
        let got = bytes.try_get_u32_le().map_err(|_| Malformed::Short)?;
        if got != expected {
            return Err(Malformed::Magic(got));
        }
    }
    let length = bytes.try_get_u32_le().map_err(|_| Malformed::Short)?;
    let entry = bytes.get(..length as usize).ok_or(Malformed::Short)?;
    let entry = Message::parse(entry)?;
    let dump = entry
        .bytes(stats_entry::DUMP)
        .ok_or(Malformed::Lacks(stats_entry::DUMP))?;
    Message::parse(dump)?
        .number(stats_entry::PAGES_WRITTEN)
        .ok_or(Malformed::Lacks(stats_entry::PAGES_WRITTEN))
}
