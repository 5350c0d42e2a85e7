import { all, request } from './client';
import type {
	CreateSandbox,
	Link,
	LogLine,
	Metrics,
	Page,
	Process,
	Sandbox,
	SandboxEvent,
	SetNetwork
} from './types';

/** Every sandbox of the team that is not stopped. */
export const listSandboxes = (signal?: AbortSignal) => all<Sandbox>('GET /v1/sandboxes', { signal });

export const getSandbox = (id: string, signal?: AbortSignal) =>
	request<Sandbox>('GET /v1/sandboxes/{id}', { path: { id }, signal });

export const createSandbox = (spec: CreateSandbox, idempotencyKey: string) =>
	request<Sandbox>('POST /v1/sandboxes', { body: spec, idempotencyKey });

export const pauseSandbox = (id: string) =>
	request<Sandbox>('POST /v1/sandboxes/{id}/pause', { path: { id } });
export const resumeSandbox = (id: string) =>
	request<Sandbox>('POST /v1/sandboxes/{id}/resume', { path: { id } });
export const destroySandbox = (id: string) =>
	request<undefined>('DELETE /v1/sandboxes/{id}', { path: { id } });
export const setTimeoutOf = (id: string, timeout_sec: number, on_timeout: Sandbox['on_timeout']) =>
	request<Sandbox>('POST /v1/sandboxes/{id}/timeout', { path: { id }, body: { timeout_sec, on_timeout } });

export const linkTo = (id: string, port: number, ttl_sec: number) =>
	request<Link>('POST /v1/sandboxes/{id}/links', { path: { id }, body: { port, ttl_sec } });
/** Replaces what it may reach; open connections that are no longer allowed end. */
export const setNetworkOf = (id: string, rules: SetNetwork) =>
	request<Sandbox>('PUT /v1/sandboxes/{id}/network', { path: { id }, body: rules });

export const sandboxEvents = (id: string, signal?: AbortSignal) =>
	all<SandboxEvent>('GET /v1/sandboxes/{id}/events', { path: { id }, signal });

export const sandboxMetrics = (id: string, range: string, signal?: AbortSignal) =>
	request<Metrics>('GET /v1/sandboxes/{id}/metrics', { path: { id }, query: { range }, signal });

export const sandboxLogs = (id: string, cursor?: string, signal?: AbortSignal) =>
	request<Page<LogLine>>('GET /v1/sandboxes/{id}/logs', {
		path: { id },
		query: { limit: 1000, cursor },
		signal
	});

/** `GET …/processes`: what its guest agent has started. */
export const listProcesses = async (id: string, signal?: AbortSignal) =>
	(await request<{ items: Process[] }>('GET /v1/sandboxes/{id}/processes', { path: { id }, signal })).items;
export const killProcess = (id: string, process: string, signal: string) =>
	request<undefined>('DELETE /v1/sandboxes/{id}/processes/{process}', {
		path: { id, process },
		query: { signal }
	});
