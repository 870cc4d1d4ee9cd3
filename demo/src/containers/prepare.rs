//! What containers need: a registry, a Caddy, workers with engines, an image, tenants.

use super::{Containers, IMAGE, TENANTS, inside};
use crate::{place::Place, story::Look, system::LAUNCH};
use orion_console::{Failure, Outcome, process::quoted, terminal};
use std::{
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

/// Longest time until the registry and Caddy answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);

impl Containers<'_, '_> {
    /// Starts a registry of images, a Caddy for the ports of containers, and Orion.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start(&mut self) -> Outcome {
        self.story.begin("Start a registry of images, a Caddy for the containers' ports, and Orion");
        let programs = self.story.system.programs_shown();
        terminal::command(&format!("export PATH=\"$PWD/{programs}:$PATH\""));
        self.start_registry()?;
        self.start_caddy()?;
        let (api, registry) = (self.story.system.api(), self.story.system.registry());
        let (address, apps_port) = (self.story.system.address, self.story.system.apps_port);
        self.story.start(&[
            ("ORION_APPS_AUTH", api),
            ("ORION_APPS_DOMAIN", format!("apps.localhost:{apps_port}")),
            ("ORION_CADDY_ADMIN", socket(&self.story.system.place)),
            ("ORION_IMAGE_REGISTRIES", format!("http://{registry}")),
            // From there Caddy reaches the nodes.
            ("ORION_PROXY_ADDRESSES", address.to_string()),
            ("ORION_SITE", "localhost".to_owned()),
            ("ORION_TRUSTED_PROXIES", format!("127.0.0.1,{address}")),
        ])?;
        let url = self.story.system.url();
        self.story.shell.set_shown("ORION_API", &url, "for orion, the client");
        Ok(())
    }

    fn start_registry(&mut self) -> Outcome {
        let system = &mut self.story.system;
        let registry = system.registry();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\nhttp: {{addr: '{registry}'}}\n",
            system.place.file("registry").display().to_string(),
        );
        system.place.write("registry.yml", &config, 0o600)?;
        let config = system.place.shown("registry.yml");
        system.start("the registry", &[], &["docker-registry", "serve", &config], "registry.log")?;
        self.story.wait("the registry answers", START_TIMEOUT, |_, _| {
            Ok(match TcpStream::connect(&registry) {
                Ok(_) => Look::Done(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })?;
        self.story.shell.set_shown("REGISTRY", &registry, "where it answers");
        Ok(())
    }

    fn start_caddy(&mut self) -> Outcome {
        let system = &mut self.story.system;
        let (data, admin) = (system.place.file("caddy"), system.place.socket("caddy.sock"));
        let data_text = data.display().to_string();
        let mut variables = vec![
            ("ORION_APPS_HTTPS_PORT", system.apps_port.to_string()),
            ("ORION_APPS_SOCKET", format!("unix/{}", socket(&system.place))),
            ("XDG_CONFIG_HOME", data_text.clone()),
            ("XDG_DATA_HOME", data_text),
        ];
        if !system.public {
            variables.push(("ORION_APPS_BIND", Ipv4Addr::LOCALHOST.to_string()));
        }
        let words = ["caddy", "run", "--adapter", "caddyfile", "--config", "caddy/apps.Caddyfile"];
        system.start("caddy", &variables, &words, "caddy.log")?;
        let authority = data.join("caddy/pki/authorities/local/root.crt");
        self.story.wait("Caddy answers", START_TIMEOUT, |_, _| {
            Ok(match admin.exists() && authority.exists() {
                true => Look::Done(()),
                false => Look::NotYet("no socket yet".to_owned()),
            })
        })?;
        self.story.shell.set_shown("CA", &authority.display().to_string(), "what its certificates rest on");
        Ok(())
    }

    /// Makes an image out of Debian's packages and pushes it into the registry.
    ///
    /// # Errors
    /// When it cannot be made, or Orion does not find it.
    pub fn make_image(&mut self) -> Outcome {
        self.story.begin("Make an image of Debian's packages, and push it into the registry");
        let [worker, ..] = &self.story.workers()[..] else {
            return Err(Failure::new("there should be workers"));
        };
        let image = format!("{}/{IMAGE}", self.story.system.registry());
        self.story.shell.set_shown("IMAGE", &image, "its name");
        terminal::note(&format!("the engine of {worker} is as good as any, and forgets it again"));
        let import = format!("{LAUNCH} --sh {worker} docker import -c 'CMD [\"bash\"]' - $IMAGE");
        self.shell().must(&format!("demo/debian-image.sh | {import}"))?;
        let pushed = self.shell().must(&format!("{LAUNCH} --sh {worker} docker push -q $IMAGE"))?;
        self.shell().must(&format!("{LAUNCH} --sh {worker} docker rmi $IMAGE"))?;
        self.story.took("push into the registry", pushed.time);
        Ok(())
    }

    /// Two clients sign up.
    ///
    /// # Errors
    /// When they cannot.
    pub fn sign_up(&mut self) -> Outcome {
        self.story.begin("Two clients sign up, alice and bob");
        self.story.tell_password();
        for name in TENANTS.into_iter().rev() {
            self.become_user(name);
            self.shell().must(&format!("ORION_PASSWORD=$PASSWORD orion signup {name}"))?;
        }
        let tested = self.shell().must("orion image test $IMAGE")?;
        if !tested.out.contains("sha256:") {
            return Err(Failure::new("orion image test should have named a digest"));
        }
        terminal::good("the registry has the image; nothing was pulled yet");
        Ok(())
    }

    /// Shows a line that runs on a worker, and what it says.
    ///
    /// # Errors
    /// When it fails.
    pub fn on_worker(&self, worker: &str, script: &str) -> Outcome<String> {
        Ok(self.shell().must(&inside(worker, script))?.out.trim().to_owned())
    }
}

/// The socket of Caddy's admin API.
fn socket(place: &Place) -> String {
    quoted(&place.socket("caddy.sock").display().to_string())
}
