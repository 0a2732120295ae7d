#pragma once

#include <napi.h>

namespace lowbit::host {

/// run(session, id, inputNames, inputs, outputNames, outputs, options) -> Promise<values[]>
///   inputs: values (values.h); outputs: per name a value to fill in place, null (ORT allocates, CPU) or true (stays on
///   the device; comes back with a device handle as its data); options: {logSeverityLevel?, logVerbosityLevel?, tag?,
///   terminate?, config}.
/// A filled output comes back as null: the caller has it already.
Napi::Value Run(const Napi::CallbackInfo& info);

/// terminate(session, id): the run with that id ends at its next node, if it is still going
void TerminateRun(const Napi::CallbackInfo& info);

}  // namespace lowbit::host
