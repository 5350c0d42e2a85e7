// The shapes of the API that the dashboard uses, by the names that the OpenAPI document gives them.
import type { components } from './schema';

type Schemas = components['schemas'];

export type Sandbox = Schemas['Sandbox'];
export type SandboxStatus = Schemas['SandboxStatus'];
export type OnTimeout = Schemas['OnTimeout'];
export type CreateSandbox = Schemas['CreateSandboxRequest'];
export type SandboxEvent = Schemas['SandboxEvent'];
export type Template = Schemas['Template'];
export type SignedIn = Schemas['AuthResponse'];
export type Me = Schemas['Me'];

export interface Page<T> {
	items: T[];
	next_cursor?: string | null;
}
