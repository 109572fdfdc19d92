// SPDX-License-Identifier: GPL-2.0

//! VRemote: a coherent distributed page cache. This file only wires the parts together; `README.md` in this directory is
//! the map.

// `pub` is what other parts of the module use; outside it there is nobody.
#![allow(unreachable_pub)]

use kernel::prelude::*;

mod config;
mod folio;
mod hooks;
mod net;
mod origin;
mod pin;
mod proto;
mod remote;
mod shim;
mod stats;
mod trace;
mod wait;
mod workqueue;

pub(crate) use shim as bindings;

module! {
    type: VRemote,
    name: "vremote",
    authors: ["VRemote contributors"],
    description: "Coherent distributed page cache",
    license: "GPL",
    params: {
        port: u16 {
            default: 1104,
            description: "UDP port to serve on (0: any free one)",
        },
        timeout_ms: u32 {
            default: 5000,
            description: "How long a call waits for a silent peer, in milliseconds",
        },
        lease_ms: u32 {
            default: 5000,
            description: "For how long a silent node keeps what this one has granted it, in milliseconds (2000 to 60000)",
        },
        plain: u8 {
            default: 0,
            description: "1: take peers without a key, and say everything to them in the clear (for benchmarks)",
        },
        keylog: u8 {
            default: 0,
            description: "1: show the keys of sessions to root in debugfs (for test clusters)",
        },
    },
}

/// A part that has been started, and how to stop it.
struct Part(fn());

impl Part {
    fn start(init: impl FnOnce() -> Result, exit: fn()) -> Result<Part> {
        init()?;
        Ok(Part(exit))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// All parts. Fields are dropped in this order, which is the reverse of the order in which they start: no local access is
/// hooked any more when the service ends, and no message arrives any more when the files do.
struct VRemote {
    _hooks: Part,
    _config: config::Config,
    _stats: stats::Stats,
    _net: Part,
    _origin: Part,
    _remote: Part,
}

impl kernel::Module for VRemote {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let mut port = module_parameters::port.value();
        let keylog = module_parameters::keylog.value() != 0;
        net::prepare(
            module_parameters::timeout_ms.value(),
            module_parameters::lease_ms.value(),
        );
        let remote = Part::start(remote::init, remote::exit)?;
        let origin = Part::start(origin::init, origin::exit)?;
        let net = Part::start(
            || {
                port = net::init(port, keylog).inspect_err(|error| {
                    pr_err!("cannot listen on UDP port {}: {:?}\n", port, error);
                })?;
                Ok(())
            },
            net::exit,
        )?;
        let stats = stats::Stats::new(port)?;
        let plain = module_parameters::plain.value() != 0;
        let config = config::Config::new(port, plain)?;
        let hooks = Part::start(hooks::init, hooks::exit)?;
        if plain {
            pr_warn!("plain=1: peers without a key are believed, and what is said to them can be read and changed by all\n");
        }
        if keylog {
            pr_warn!("keylog=1: the keys of sessions can be read in debugfs, and with them all that other nodes say to this one and are told\n");
        }
        pr_info!("Remote Storage, UDP Server: Listening on port {}\n", port);
        Ok(VRemote {
            _hooks: hooks,
            _config: config,
            _stats: stats,
            _net: net,
            _origin: origin,
            _remote: remote,
        })
    }
}
