// The shapes of the API that the dashboard uses, by the names that the OpenAPI document gives them.
import type { components } from './schema';

type Schemas = components['schemas'];

export type Sandbox = Schemas['Sandbox'];
export type SandboxStatus = Schemas['SandboxStatus'];
export type OnTimeout = Schemas['OnTimeout'];
export type CreateSandbox = Schemas['CreateSandboxRequest'];
export type SandboxEvent = Schemas['SandboxEvent'];
export type Metrics = Schemas['Metrics'];
export type MetricsPoint = Schemas['MetricsPoint'];
export type Process = Schemas['Process'];
export type FileEntry = Schemas['FileEntry'];
export type FileList = Schemas['FileList'];
export type LogLine = Schemas['LogLine'];
export type Template = Schemas['Template'];
export type SignedIn = Schemas['AuthResponse'];
export type Me = Schemas['Me'];
export type AuthConfig = Schemas['AuthConfig'];
export type BrowserSession = Schemas['Session'];
export type EndedSessions = Schemas['EndedSessions'];
export type Team = Schemas['Team'];
export type Role = Schemas['Role'];
export type ApiKey = Schemas['ApiKey'];
export type Host = Schemas['Host'];
export type HostStatus = Schemas['HostStatus'];
export type CreateHost = Schemas['CreateHostRequest'];
export type CreatedHost = Schemas['CreateHostResponse'];
export type HostDrain = Schemas['HostDrain'];
export type HostDeletePreview = Schemas['HostDeletePreview'];
export type RegistrationToken = Schemas['RegistrationTokenResponse'];

export interface Page<T> {
	items: T[];
	next_cursor?: string | null;
}
export interface CountedPage<T> extends Page<T> {
	/** How many fit the filters, over all pages. */
	total: number;
}

export type Member = Schemas['Member'];
export type AdminTeam = Schemas['AdminTeam'];
export type AdminUser = Schemas['AdminUser'];
export type AdminSandbox = Schemas['AdminSandbox'];

export type AuditEntry = Schemas['AuditEntry'];

export type KeyScope = Schemas['KeyScope'];
export type NewKey = Schemas['CreateApiKeyRequest'];
export type Snapshot = Schemas['Snapshot'];
export type ForkResponse = Schemas['ForkResponse'];
export type Build = Schemas['Build'];
export type BuildLogLine = Schemas['BuildLogLine'];
export type RegistryLogin = Schemas['RegistryLogin'];
export type StartedBuild = Schemas['StartedBuild'];
export type Usage = Schemas['Usage'];
export type Activity = Schemas['Activity'];
export type Invitation = Schemas['Invitation'];
export type InvitationDetail = Schemas['InvitationDetail'];
export type DeviceLoginDetail = Schemas['DeviceLoginDetail'];
export type Webhook = Schemas['Webhook'];
export type Delivery = Schemas['Delivery'];
export type ResetLink = Schemas['ResetLink'];
export type Quotas = Schemas['Quotas'];
export type SetQuotas = Schemas['SetQuotasRequest'];
export type HostTags = Schemas['HostTags'];
export type NetworkPolicy = Schemas['NetworkPolicy'];
export type SetNetwork = Schemas['SetNetworkRequest'];
export type Link = Schemas['Link'];
export type Volume = Schemas['Volume'];
export type CreateVolume = Schemas['CreateVolumeRequest'];
export type VolumeMode = Schemas['VolumeMode'];
export type Secret = Schemas['Secret'];
export type Mount = Schemas['Mount'];
export type VolumeMount = Schemas['VolumeMount'];
