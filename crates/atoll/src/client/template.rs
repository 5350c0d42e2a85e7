//! `atoll template`: build, look, delete.

use std::path::Path;

use anyhow::{Context, bail};
use atoll_client::Client;
use atoll_client::model::BuildId;
use atoll_client::model::api::templates::{
    Build, BuildLogLine, BuildStatus, CreateTemplateRequest, RegistryLogin, Template,
};
use sha2::{Digest, Sha256};

use crate::cli::templates::BuildArgs;
use crate::cli::{Global, TemplateCommand};
use crate::output::{self, Table, age, plain};

/// Files for COPY are held in memory while they are packed.
const MAX_CONTEXT: usize = 1 << 30;

pub async fn main(command: TemplateCommand, global: &Global) -> anyhow::Result<u8> {
    let client = super::client(global)?;
    match command {
        TemplateCommand::Build(args) => return build(&client, *args, global).await,
        TemplateCommand::List => table(&all(&client).await?, global)?,
        TemplateCommand::Get { name } => table(&[client.get_template(&name).await?], global)?,
        TemplateCommand::Publish { name } => table(&[client.publish_template(&name, true).await?], global)?,
        TemplateCommand::Unpublish { name } => table(&[client.publish_template(&name, false).await?], global)?,
        TemplateCommand::Rm { names } => {
            for name in &names {
                client.delete_template(name).await?;
                if !global.json {
                    output::print(&format!("{name}\n"))?;
                }
            }
            if global.json {
                output::print_json(&serde_json::json!({ "deleted": names }))?;
            }
        }
        TemplateCommand::Logs { name, build } => {
            let build = match build {
                Some(build) => build,
                None => newest(&client, &name).await?,
            };
            return follow(&client, &name, &build, global).await;
        }
        TemplateCommand::Cancel { name, build } => client.cancel_build(&name, &build).await?,
        // Done on this machine, by `service::prepare`.
        TemplateCommand::Prepare(_) => {}
    }
    Ok(0)
}

async fn newest(client: &Client, name: &str) -> anyhow::Result<BuildId> {
    let last = client.list_builds(name).await?.items.pop();
    Ok(last.with_context(|| format!("the template {name} has no builds"))?.id)
}

async fn build(client: &Client, args: BuildArgs, global: &Global) -> anyhow::Result<u8> {
    let recipe = match &args.file {
        Some(file) => {
            Some(std::fs::read_to_string(file).with_context(|| format!("reading the recipe {}", file.display()))?)
        }
        None => None,
    };
    let copies = recipe.as_deref().is_some_and(|text| {
        text.lines().any(|line| {
            let word = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            word == "COPY" || word == "ADD"
        })
    });
    let context = match (copies, &args.context, &args.file) {
        (false, ..) => None,
        (true, Some(directory), _) => Some(upload(client, directory).await?),
        (true, None, Some(file)) => {
            let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Some(upload(client, directory).await?)
        }
        (true, None, None) => None,
    };
    let registry = match &args.registry_user {
        Some(username) => {
            let password = std::env::var("ATOLL_REGISTRY_PASSWORD")
                .context("--registry-user: the password is read from ATOLL_REGISTRY_PASSWORD, which is not set")?;
            Some(RegistryLogin { username: username.clone(), password })
        }
        None => None,
    };
    let request = CreateTemplateRequest {
        name: args.name.clone(),
        recipe,
        image: args.image,
        context,
        registry,
        start_cmd: args.start,
        ready_cmd: args.ready,
        driver: args.driver,
        keep_memory: args.keep_memory,
        vcpus: args.vcpus,
        memory_mb: args.memory,
        disk_mb: args.disk,
        force: args.force,
        ..CreateTemplateRequest::default()
    };
    let started = client.build_template(&request).await?;
    if args.detach {
        if global.json {
            output::print_json(&started)?;
        } else {
            output::print(&format!("{}\n", started.build.id))?;
        }
        return Ok(0);
    }
    follow(client, started.template.id.as_str(), &started.build.id, global).await
}

/// Shows a build's log to its end. 1 when it has no product.
async fn follow(client: &Client, name: &str, build: &BuildId, global: &Global) -> anyhow::Result<u8> {
    let mut ended: Option<Build> = None;
    let mut broken = None;
    client
        .follow_build(name, build, |event, data| match event {
            "log" if global.json => broken = output::print(&format!("{data}\n")).err(),
            "log" => {
                let Ok(line) = serde_json::from_str::<BuildLogLine>(data) else { return };
                let step = line.step.unwrap_or_default();
                broken = output::print(&format!("{step:>8}  {}\n", plain(&line.message))).err();
            }
            "end" => ended = serde_json::from_str(data).ok(),
            _ => {}
        })
        .await?;
    if let Some(error) = broken {
        return Err(error.into());
    }
    let Some(ended) = ended else { bail!("the build's log broke off; `atoll template logs {name}` shows it again") };
    if global.json {
        output::print(&format!("{}\n", serde_json::to_string(&ended)?))?;
    }
    Ok(u8::from(ended.status != BuildStatus::Ready))
}

/// Packs a directory and uploads it under the hash of the archive.
async fn upload(client: &Client, directory: &Path) -> anyhow::Result<String> {
    let root = directory.to_owned();
    let packing = tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(Vec::new());
        archive.mode(tar::HeaderMode::Deterministic);
        archive.follow_symlinks(false);
        archive.append_dir_all(".", &root)?;
        archive.into_inner()
    });
    let what = || format!("packing {}", directory.display());
    let bytes = packing.await.with_context(what)?.with_context(what)?;
    if bytes.len() > MAX_CONTEXT {
        bail!("{} is larger than {} MiB; give COPY a smaller directory with --context", what(), MAX_CONTEXT >> 20);
    }
    let hash = hex::encode(Sha256::digest(&bytes));
    client.upload_template_files(&hash, bytes.into()).await?;
    Ok(hash)
}

async fn all(client: &Client) -> anyhow::Result<Vec<Template>> {
    let (mut templates, mut cursor) = (Vec::new(), None);
    loop {
        let page = client.list_templates(cursor.as_deref()).await?;
        templates.extend(page.items);
        match page.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => return Ok(templates),
        }
    }
}

fn table(templates: &[Template], global: &Global) -> anyhow::Result<()> {
    if global.json {
        return output::print_json(&templates);
    }
    let mut table = Table::new(&["NAME", "ID", "WHOSE", "DRIVER", "USER", "SIZE", "UPDATED"]);
    for template in templates {
        table.row([
            template.name.clone(),
            template.id.to_string(),
            match (template.platform, template.public) {
                (true, _) => "platform",
                (false, true) => "team, public",
                (false, false) => "team",
            }
            .to_owned(),
            template.driver.clone(),
            template.default_user.clone(),
            format!("{:.1} MB", template.size_bytes as f64 / 1e6),
            age(template.updated_at),
        ]);
    }
    table.print()?;
    Ok(())
}
