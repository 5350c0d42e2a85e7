import { all, open, request } from './client';
import type { Build, BuildLogLine, RegistryLogin, StartedBuild, Template } from './types';
import { readEvents } from '$lib/sse';

export const listTemplates = (signal?: AbortSignal) => all<Template>('GET /v1/templates', { signal });

/** From a recipe, or from an image of a registry. Answers at once; the log tells how it goes. */
export const buildTemplate = (
	spec: { name: string; recipe?: string; image?: string; registry?: RegistryLogin },
	idempotencyKey: string
) => request<StartedBuild>('POST /v1/templates', { body: spec, idempotencyKey });
/** Public: every team may make sandboxes from it. */
export const setPublic = (name: string, open: boolean) =>
	request<Template>('PATCH /v1/templates/{name}', { path: { name }, body: { public: open } });
export const deleteTemplate = (name: string) =>
	request<undefined>('DELETE /v1/templates/{name}', { path: { name } });
export const getBuild = (name: string, build: string, signal?: AbortSignal) =>
	request<Build>('GET /v1/templates/{name}/builds/{build}', { path: { name, build }, signal });

/** Oldest first. */
export const listBuilds = (name: string, signal?: AbortSignal) =>
	all<Build>('GET /v1/templates/{name}/builds', { path: { name }, signal });
export const cancelBuild = (name: string, build: string) =>
	request<undefined>('DELETE /v1/templates/{name}/builds/{build}', { path: { name, build } });

/** Every line of a build's log, as it is written, to its end. */
export async function followBuild(
	name: string,
	build: string,
	each: (line: BuildLogLine) => void,
	signal: AbortSignal
): Promise<void> {
	const answer = await open('GET /v1/templates/{name}/builds/{build}/logs', {
		path: { name, build },
		signal
	});
	if (!answer.body) return;
	await readEvents(answer.body, ({ data }) => {
		const line = JSON.parse(data) as Partial<BuildLogLine>;
		if (typeof line.message === 'string') each(line as BuildLogLine);
	});
}
