// Judges the rules in CEL of the manifests as an API server of Kubernetes does, with its own library: the rules of
// definitions compile and cost no more than may be, the policies answer as the cases say.
//
// Arguments: the directory of the manifests, the cases.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admission/v1"
	policyv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/openapi"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/yaml"
)

// What a rule, and all rules of a definition, may cost by estimate: apiextensions-apiserver refuses more.
const (
	ruleLimit       = 10_000_000
	definitionLimit = 100_000_000
)

// Versions of Kubernetes: rules of definitions are stable from 1.29 on, policies from 1.30.
var versions = []*version.Version{
	version.MajorMinor(1, 29), version.MajorMinor(1, 30), environment.DefaultCompatibilityVersion(),
}

var passed, failed int

func check(good bool, text string, args ...any) {
	if good {
		passed++
		return
	}
	failed++
	fmt.Printf("FAILED "+text+"\n", args...)
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return value
}

// How long a value of a definition's schema may be, for the estimate.
type sizes struct{ self *apiservercel.DeclType }

func (s sizes) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	found := s.self
	for index, part := range node.Path() {
		switch {
		case index == 0 && (part == "self" || part == "oldSelf"):
		case part == "@items" || part == "@values":
			found = found.ElemType
		case part == "@keys":
			found = found.KeyType
		default:
			field := found.Fields[part]
			if field == nil {
				return nil
			}
			found = field.Type
		}
		if found == nil {
			return nil
		}
	}
	if len(node.Path()) == 0 {
		return nil
	}
	return &checker.SizeEstimate{Max: uint64(found.MaxElements)}
}

func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

// The estimated cost of a rule, once.
func cost(rule string, self *apiservercel.DeclType, of *version.Version) (uint64, error) {
	// Not "self": its fields would be looked for among the variable's.
	self = self.MaybeAssignTypeName("checked")
	options := []cel.EnvOption{cel.Variable("self", self.CelType()), cel.Variable("oldSelf", self.CelType())}
	set, err := environment.MustBaseEnvSet(of, true).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		EnvOptions:        options,
		DeclTypes:         []*apiservercel.DeclType{self},
	})
	if err != nil {
		return 0, err
	}
	env := set.NewExpressionsEnv()
	ast, issues := env.Compile(rule)
	if issues.Err() != nil {
		return 0, issues.Err()
	}
	if ast.OutputType() != cel.BoolType {
		return 0, fmt.Errorf("is no condition")
	}
	estimate, err := env.EstimateCost(ast, &library.CostEstimator{SizeEstimator: sizes{self}})
	return estimate.Max, err
}

// Checks the rules of a schema that there may be `times` values of; their whole cost.
func rules(path string, of *spec.Schema, times uint64, root bool, at *version.Version) uint64 {
	own := common.SchemaDeclType(&openapi.Schema{Schema: of}, root)
	var all uint64
	stated, _ := of.Extensions["x-kubernetes-validations"].([]any)
	for _, one := range stated {
		rule := one.(map[string]any)["rule"].(string)
		once, err := cost(rule, own, at)
		check(err == nil, "%s: `%s`: %v", path, rule, err)
		check(once <= ruleLimit/times, "%s: `%s` costs %d, %d times", path, rule, once, times)
		all += once * times
	}
	for name, property := range of.Properties {
		all += rules(path+"."+name, &property, times, false, at)
	}
	most := times
	if own != nil && own.MaxElements > 0 {
		most *= uint64(own.MaxElements)
	}
	if of.Items != nil && of.Items.Schema != nil {
		all += rules(path+"[]", of.Items.Schema, most, false, at)
	}
	if of.AdditionalProperties != nil && of.AdditionalProperties.Schema != nil {
		all += rules(path+"{}", of.AdditionalProperties.Schema, most, false, at)
	}
	return all
}

func definition(file string, at *version.Version) {
	var read struct {
		Spec struct {
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema spec.Schema }
			}
		}
	}
	text := must(yaml.YAMLToJSON(must(os.ReadFile(file))))
	must(0, json.Unmarshal(text, &read))
	check(len(read.Spec.Versions) > 0, "%s has no versions", file)
	for _, one := range read.Spec.Versions {
		all := rules(filepath.Base(file)+" "+one.Name, &one.Schema.OpenAPIV3Schema, 1, true, at)
		check(all <= definitionLimit, "the rules of %s cost %d", file, all)
	}
}

type condition string

func (c condition) GetExpression() string  { return string(c) }
func (condition) ReturnTypes() []*cel.Type { return []*cel.Type{cel.BoolType} }

// A request, and what a policy says of it: nothing, or words of its message.
type request struct {
	Object map[string]any
	User   authenticationv1.UserInfo
	Says   string
}

// What the conditions say of a request, one by one.
func ask(conditions []plugincel.ExpressionAccessor, of request, at *version.Version) ([]plugincel.EvaluationResult, error) {
	object := &unstructured.Unstructured{Object: of.Object}
	kind := object.GroupVersionKind()
	attributes := admission.NewAttributesRecord(object, nil, kind, "default", object.GetName(),
		schema.GroupVersionResource{}, "", admission.Create, &metav1.CreateOptions{}, false, nil)
	versioned := &admission.VersionedAttributes{Attributes: attributes, VersionedKind: kind, VersionedObject: object}
	compiler := must(plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(at, true)))
	compiled := compiler.CompileCondition(conditions, plugincel.OptionalVariableDeclarations{StrictCost: true},
		environment.NewExpressions)
	for _, err := range compiled.CompilationErrors() {
		return nil, err
	}
	answers, _, err := compiled.ForInput(context.Background(), versioned, &admissionv1.AdmissionRequest{UserInfo: of.User},
		plugincel.OptionalVariableBindings{}, nil, celconfig.RuntimeCELCostBudget)
	return answers, err
}

// What a policy says of a request.
func judge(policy *policyv1.ValidatingAdmissionPolicy, of request, at *version.Version) (string, error) {
	var matches, validations []plugincel.ExpressionAccessor
	for _, one := range policy.Spec.MatchConditions {
		matches = append(matches, condition(one.Expression))
	}
	for _, one := range policy.Spec.Validations {
		validations = append(validations, condition(one.Expression))
	}
	answers, err := ask(matches, of, at)
	for _, one := range answers {
		if one.Error != nil || one.EvalResult != types.True {
			return "", one.Error
		}
	}
	if err != nil {
		return "", err
	}
	answers, err = ask(validations, of, at)
	for index, one := range answers {
		if one.Error != nil {
			return "", one.Error
		}
		if one.EvalResult != types.True {
			return policy.Spec.Validations[index].Message, nil
		}
	}
	return "", err
}

func policy(dir, file string, requests []request, at *version.Version) {
	var read policyv1.ValidatingAdmissionPolicy
	text := string(must(os.ReadFile(filepath.Join(dir, file))))
	must(0, yaml.UnmarshalStrict([]byte(strings.Split(text, "\n---\n")[0]), &read))
	for _, one := range requests {
		says, err := judge(&read, one, at)
		good := err == nil && (says == "") == (one.Says == "") && strings.Contains(says, one.Says)
		check(good, "%s of %v and %v says `%s`, not `%s` (%v)", read.Name, one.Object, one.User, says, one.Says, err)
	}
}

func main() {
	dir := os.Args[1]
	var cases map[string][]request
	must(0, yaml.UnmarshalStrict(must(os.ReadFile(os.Args[2])), &cases))
	definitions := must(filepath.Glob(filepath.Join(dir, "crds", "kata*.yaml")))
	check(len(definitions) > 0, "there are no definitions in %s", dir)
	for _, at := range versions {
		fmt.Printf("as Kubernetes %s does\n", at)
		for _, file := range definitions {
			definition(file, at)
		}
		for file, requests := range cases {
			policy(dir, file, requests, at)
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}
